//! The planner, held to what the shader will do with its tables: random tensors, buffers and limits, and no GPU.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wgpu_optim::Error;
use wgpu_optim::format::Storage;
use wgpu_optim::plan::{
    ELEMENT, Item, Lanes, Launch, Limits, Place, Placement, Places, QUAD, Run, Segment, Span, WORKGROUP, arena,
    launches,
};

/// A tensor as it is drawn: sizes in elements.
#[derive(Clone, Debug)]
struct Drawn {
    len: u64,
    variant: usize,
    /// (buffer, elements free before it).
    params: (usize, u64),
    grads: (usize, u64),
    /// Elements in whose multiples it starts and has room, as in an arena; 0 for one without padding.
    padded: u64,
    /// Whether its gradient keeps away from it where both lie in one buffer.
    apart: bool,
    /// In which call of `extend` it comes.
    batch: usize,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let len = prop_oneof![4 => 1..20u64, 3 => 200..1100u64, 1 => 10_000..200_000u64];
    let gap = || prop_oneof![3 => Just(0u64), 3 => 0..9u64, 2 => 60..130u64];
    // Two of the buffers hold parameters and gradients.
    let places = ((0..3usize, gap()), (1..4usize, gap()));
    let apart = prop::bool::weighted(0.98);
    let of = (len, 0..3usize, places, padding(), apart, 0..3usize);
    of.prop_map(|(len, variant, (params, grads), padded, apart, batch)| Drawn {
        len,
        variant,
        params,
        grads,
        padded,
        apart,
        batch,
    })
}

fn padding() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), Just(QUAD), Just(8), Just(64)]
}

fn limits() -> impl Strategy<Value = Limits> {
    let size = || prop_oneof![Just(16u64 << 10), 16u64 << 10..64 << 10, Just(1 << 20), Just(128 << 20)];
    let groups = prop_oneof![1..20u64, Just(65_535)];
    let alignment = prop_oneof![Just(32u64), Just(64), Just(256)];
    (size(), size(), groups, alignment).prop_map(|(binding, buffer, groups, alignment)| {
        // wgpu takes sizes in whole words alone.
        Limits { binding: binding / 4 * 4, buffer: buffer / 4 * 4, groups, alignment }
    })
}

/// Slots that a variant keeps.
fn planes(variant: usize) -> Vec<Storage> {
    vec![Storage::F32; variant + 1]
}

/// Tensors of all batches in order, with their places in buffers that are as long as they must be.
struct Laid {
    items: Vec<Item>,
    places: Vec<(Place, Place)>,
    /// Bytes, by buffer.
    buffers: BTreeMap<usize, u64>,
    /// Tensors of each batch.
    batches: Vec<usize>,
}

impl Laid {
    fn new(mut tensors: Vec<Drawn>) -> Self {
        tensors.sort_by_key(|tensor| tensor.batch);
        let batches = (0..3).map(|batch| tensors.iter().filter(|t| t.batch == batch).count()).collect();
        let mut buffers = BTreeMap::new();
        let mut place = |(buffer, gap): (usize, u64), tensor: &Drawn| {
            let end = buffers.entry(buffer).or_insert(0u64);
            let mut offset = *end + gap * ELEMENT;
            let size = tensor.len * ELEMENT;
            let mut room = size;
            if tensor.padded > 0 {
                offset = offset.next_multiple_of(tensor.padded * ELEMENT);
                room = size.next_multiple_of(tensor.padded * ELEMENT);
            }
            *end = offset + room;
            Place { span: Span { buffer, offset, size }, room, element: ELEMENT }
        };
        // As far apart as the largest block.
        let away = |t: &Drawn| if t.apart && t.params.0 == t.grads.0 { t.grads.1 + 64 } else { t.grads.1 };
        let places = tensors.iter().map(|t| (place(t.params, t), place((t.grads.0, away(t)), t))).collect();
        let item = |t: &Drawn| {
            let room = t.len.next_multiple_of(t.padded.max(1));
            Item {
                variant: t.variant,
                group: t.len as usize % 2,
                planes: planes(t.variant),
                key: None,
                len: t.len,
                room,
            }
        };
        Self { items: tensors.iter().map(item).collect(), places, buffers, batches }
    }

    fn placement(&self, limits: &Limits) -> Placement {
        let mut placement = Placement::default();
        let mut first = 0;
        for &count in &self.batches {
            let before = placement.clone();
            let order =
                |item: usize| (self.places[first + item].0.span.buffer, self.places[first + item].0.span.offset);
            placement.extend(&self.items[first..first + count], limits, order);
            assert!(placement.windows.starts_with(&before.windows), "a window has moved");
            assert!(placement.pieces.starts_with(&before.pieces), "a piece has moved");
            assert!(placement.pages.starts_with(&before.pages), "a page has grown");
            first += count;
        }
        placement
    }
}

fn disjoint(spans: &mut [Span]) {
    spans.sort_by_key(|span| (span.buffer, span.offset));
    for pair in spans.windows(2) {
        assert!(!pair[0].meets(&pair[1]), "{:?} meets {:?}", pair[0], pair[1]);
    }
}

/// Ranges (start, end) that hold every element of `0..len` once.
fn partition(mut ranges: Vec<(u64, u64)>, len: u64, what: &str) {
    ranges.sort_unstable();
    let mut next = 0;
    for (start, end) in ranges {
        assert_eq!(start, next, "{what}: element {next} of {len} is covered twice or not at all");
        assert!(end > start, "{what}: an empty range at {start}");
        next = end;
    }
    assert_eq!(next, len, "{what}: the end");
}

fn check_placement(laid: &Laid, placement: &Placement, limits: &Limits) {
    for (tensor, item) in laid.items.iter().enumerate() {
        let pieces = placement.pieces_of(tensor).map(|piece| (piece.start, piece.start + piece.len)).collect();
        partition(pieces, item.len, "pieces");
    }
    let window_span = |w: &wgpu_optim::plan::Window| Span { buffer: w.page, offset: w.offset, size: w.size() };
    disjoint(&mut placement.windows.iter().map(window_span).collect::<Vec<_>>());
    for window in &placement.windows {
        assert!(window.size() <= limits.binding && window.size() > 0, "{window:?}");
        assert!(window.offset.is_multiple_of(limits.alignment), "{window:?}");
        assert!(window.offset + window.size() <= placement.pages[window.page], "{window:?}");
        assert!(window.stride.is_multiple_of(QUAD), "{window:?}");
        assert_eq!(window.planes, planes(window.variant));
    }
    for &page in &placement.pages {
        assert!(page <= limits.buffer && page > 0 && page.is_multiple_of(ELEMENT), "a page of {page} bytes");
    }
    check_state(laid, placement);
}

/// Every slot of every piece, with what a quad over its end touches, lies in its window and meets no other.
fn check_state(laid: &Laid, placement: &Placement) {
    let mut spans = Vec::new();
    for piece in &placement.pieces {
        let window = &placement.windows[piece.window];
        assert_eq!(window.variant, laid.items[piece.tensor].variant);
        assert!(piece.at.is_multiple_of(QUAD), "{piece:?}");
        for plane in 0..window.planes.len() {
            let mut span = piece.state(window, plane);
            assert_eq!(span.size, piece.len * ELEMENT);
            span.size = piece.room * ELEMENT;
            assert!(span.offset >= window.offset && span.end() <= window.offset + window.size(), "{piece:?}");
            spans.push(span);
        }
    }
    disjoint(&mut spans);
}

fn lane(lanes: Lanes) -> u64 {
    match lanes {
        Lanes::Quads => QUAD,
        Lanes::Words => 1,
    }
}

/// What one segment does, as `step.wgsl` does it; the elements of its tensor that it steps.
fn check_segment(laid: &Laid, placement: &Placement, launch: &Launch, segment: &Segment) -> (u64, u64) {
    let lane = lane(launch.lanes);
    let (params, grads) = laid.places[segment.tensor];
    let count = segment.lanes * lane;
    // The first element, by where the parameters lie and by where the gradient lies.
    let element = |bound: &Span, first: u64, place: &Place| {
        assert_eq!(bound.buffer, place.span.buffer, "{segment:?} is in another buffer");
        let byte = bound.offset + first * lane * ELEMENT;
        assert!(byte >= place.span.offset, "{segment:?} starts before its tensor");
        let start = (byte - place.span.offset) / ELEMENT;
        assert_eq!(place.span.offset + start * ELEMENT, byte, "{segment:?} is off the grid");
        assert!((start + count) * ELEMENT <= place.room, "{segment:?} reaches past its tensor");
        assert!((first * lane + count) * ELEMENT <= bound.size, "{segment:?} reaches out of the binding");
        start
    };
    let start = element(&launch.params, segment.params, &params);
    assert_eq!(start, element(&launch.grads, segment.grads, &grads), "{segment:?}: another gradient");
    let piece = placement.pieces_of(segment.tensor).find(|p| p.start <= start && start < p.start + p.len);
    let piece = piece.expect("a segment that starts in no piece");
    assert_eq!(piece.window, launch.window, "{segment:?} is in another window");
    assert_eq!(segment.state * lane, piece.at + start - piece.start, "{segment:?}: state of another element");
    let end = start + count;
    let piece_end = piece.start + piece.len;
    assert!(end <= piece.start + piece.room, "{segment:?} reaches past its piece");
    // Past the end of a piece lies padding, and so the end of the tensor.
    assert!(end <= piece_end || piece_end == laid.items[segment.tensor].len, "{segment:?} steps elements twice");
    (start, end.min(piece_end))
}

fn check_bindings(laid: &Laid, launch: &Launch, limits: &Limits) {
    assert!(!launch.params.meets(&launch.grads), "{launch:?} binds bytes twice");
    for bound in [&launch.params, &launch.grads] {
        assert!(bound.offset.is_multiple_of(limits.alignment), "{bound:?}");
        assert!(bound.size <= limits.binding && bound.size > 0 && bound.size.is_multiple_of(ELEMENT), "{bound:?}");
        assert!(bound.end() <= laid.buffers[&bound.buffer], "{bound:?} ends after its buffer");
    }
}

/// Lanes that lie side by side in all three buffers: (params, grads, state, how many).
type Stretch = [u64; 4];

/// The dispatches as the shader runs them, with tensors in some classes and some left out: each class steps its own
/// lanes, and each once.
fn check_runs(placement: &Placement, launch: &Launch, limits: &Limits) {
    const SKIP: u32 = 9;
    let table = launch.table();
    assert_eq!(table.len() as u64 * 4, launch.table_size());
    assert!(launch.table_size() <= limits.binding, "a table of {} bytes cannot be bound", launch.table_size());
    let tensors = launch.segments.iter().map(|segment| segment.tensor).max().unwrap() + 1;
    let classes: [fn(usize) -> u32; 3] = [|_| 0, |tensor| tensor as u32 % 2, |tensor| [SKIP, 0, 0, 1, 1][tensor % 5]];
    for class_of in classes {
        let class_of: Vec<u32> = (0..tensors).map(class_of).collect();
        let runs = launch.runs(&class_of, SKIP);
        for class in [0, 1, SKIP] {
            let own = launch.segments.iter().filter(|segment| class_of[segment.tensor] == class);
            let own = own.map(|s| [s.params, s.grads, s.state, s.lanes]).filter(|_| class != SKIP);
            let run = runs.iter().filter(|run| run.class == class);
            let stepped = run.flat_map(|run| dispatched(placement, launch, run, &table, limits));
            assert_eq!(joined(stepped.collect()), joined(own.collect()), "class {class}");
        }
    }
}

/// What one dispatch steps, as `step.wgsl` does it.
fn dispatched(placement: &Placement, launch: &Launch, run: &Run, table: &[u32], limits: &Limits) -> Vec<Stretch> {
    let window = &placement.windows[launch.window];
    let (width, height) = run.grid(limits);
    assert!(u64::from(width.max(height)) <= limits.groups && width.min(height) > 0, "a grid of {width} x {height}");
    let [first, groups, grid_width, stride, params, grads, state, lanes, noise @ ..] =
        run.words(window, launch.lanes, limits);
    assert!(noise[0] == 0 && noise[2..] == [0, 0], "{noise:?} where nothing is rounded by chance");
    let place = [params, grads, state, lanes];
    assert!(grid_width == width && width * height >= groups && u64::from(groups) == run.groups());
    assert_eq!(u64::from(stride) * lane(launch.lanes), window.stride);
    let group = |index: u32| {
        let (place, from) = match run.places(limits) {
            // Its number is what it is in the first row of a grid.
            Places::Origin if height == 1 => ([0, 0, 0, lanes], index * WORKGROUP as u32),
            Places::Origin => panic!("a grid of {height} rows is folded"),
            Places::Uniform => (place, index * WORKGROUP as u32),
            Places::Table => (table[(first + index) as usize * 4..][..4].try_into().unwrap(), 0),
        };
        let [params, grads, state, lanes] = place.map(u64::from);
        let from = u64::from(from);
        assert!(from < lanes, "group {index} has nothing to do");
        [params + from, grads + from, state + from, WORKGROUP.min(lanes - from)]
    };
    (0..groups).map(group).collect()
}

/// Stretches in order, those that continue each other as one.
fn joined(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort();
    let mut joined: Vec<Stretch> = Vec::new();
    for [params, grads, state, lanes] in stretches {
        match joined.last_mut() {
            Some([p, g, s, n]) if [*p + *n, *g + *n, *s + *n] == [params, grads, state] => *n += lanes,
            _ => joined.push([params, grads, state, lanes]),
        }
    }
    joined
}

/// The gradient lies in the bytes that must be bound with the parameters.
fn shares_a_block(places: &(Place, Place), limits: &Limits) -> bool {
    let block = |byte: u64| byte / limits.alignment;
    let (p, g) = (places.0.span, places.1.span);
    let last = |place: &Place| block(place.span.offset + place.room - 1);
    let (first_p, first_g) = (block(p.offset), block(g.offset));
    p.buffer == g.buffer && first_p <= last(&places.1) && first_g <= last(&places.0)
}

fn check(tensors: Vec<Drawn>, limits: &Limits) {
    let laid = Laid::new(tensors);
    let placement = laid.placement(limits);
    check_placement(&laid, &placement, limits);
    let planned = match launches(&placement, &laid.places, limits, |tensor| tensor.to_string()) {
        Ok(planned) => planned,
        Err(Error::SharedBlock { name, .. }) => {
            let tensor: usize = name.parse().unwrap();
            assert!(shares_a_block(&laid.places[tensor], limits), "tensor {tensor} shares no block");
            return;
        }
        Err(other) => panic!("{other}"),
    };
    let mut stepped = vec![Vec::new(); laid.items.len()];
    for launch in &planned {
        check_bindings(&laid, launch, limits);
        check_runs(&placement, launch, limits);
        for segment in &launch.segments {
            stepped[segment.tensor].push(check_segment(&laid, &placement, launch, segment));
        }
    }
    for (ranges, item) in stepped.into_iter().zip(&laid.items) {
        partition(ranges, item.len, "steps");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_element_is_stepped_once_and_nothing_else_is_touched(
        tensors in prop::collection::vec(drawn(), 1..14),
        limits in limits(),
    ) {
        check(tensors, &limits);
    }

    #[test]
    fn tensors_of_one_kind_packed_side_by_side_are_stepped_once(
        lens in prop::collection::vec(1..40u64, 1..400),
        first in 0..70u64,
        padded in padding(),
        limits in limits(),
    ) {
        let mut gap = first;
        let tensor = |len| {
            let gap = std::mem::take(&mut gap);
            Drawn { len, variant: 0, params: (0, gap), grads: (3, 0), padded, apart: true, batch: 0 }
        };
        check(lens.into_iter().map(tensor).collect(), &limits);
    }

    #[test]
    fn an_arena_lends_ranges_that_are_aligned_and_apart(
        lens in prop::collection::vec(prop_oneof![1..20u64, 1..5000u64], 1..100),
        limits in limits(),
    ) {
        let names: Vec<String> = (0..lens.len()).map(|i| i.to_string()).collect();
        let tensors: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(lens.iter().copied()).collect();
        match arena(&tensors, &limits) {
            Ok(layout) => check_arena(&layout, &lens, &limits),
            Err(Error::TooLarge { found, limit, .. }) => prop_assert!(found > limit && limit * 4 + 256 > limits.buffer),
            Err(other) => panic!("{other}"),
        }
    }
}

fn check_arena(layout: &wgpu_optim::plan::ArenaLayout, lens: &[u64], limits: &Limits) {
    assert_eq!(layout.spans.len(), lens.len());
    for (span, len) in layout.spans.iter().zip(lens) {
        assert_eq!(span.size, len * ELEMENT);
        assert!(span.offset.is_multiple_of(limits.alignment), "{span:?}");
    }
    // With the padding that belongs to them.
    let padded = |(span, &size): (&Span, &u64)| Span { size, ..*span };
    let mut spans: Vec<Span> = layout.spans.iter().zip(&layout.rooms).map(padded).collect();
    assert!(layout.spans.iter().zip(&spans).all(|(span, padded)| span.size <= padded.size));
    assert!(spans.iter().all(|span| span.end() <= layout.pages[span.buffer]));
    disjoint(&mut spans);
    assert!(layout.pages.iter().all(|&page| page <= limits.buffer && page.is_multiple_of(ELEMENT)));
}

/// A large model at the defaults of WebGPU: the counts that no small test reaches.
#[test]
fn ten_billion_elements_are_planned_within_the_defaults() {
    let limits = Limits::DEFAULT;
    // 160 buffers of 256 MiB for each role.
    let tensor = |i: usize| {
        let span = |buffer| Span { buffer, offset: 0, size: 256 << 20 };
        let place = |buffer| Place { span: span(buffer), room: 256 << 20, element: ELEMENT };
        (
            Item { variant: 1, group: 0, planes: planes(1), key: None, len: 64 << 20, room: 64 << 20 },
            (place(2 * i), place(2 * i + 1)),
        )
    };
    let (items, places): (Vec<Item>, Vec<_>) = (0..160).map(tensor).unzip();
    let buffers = (0..320).map(|buffer| (buffer, 256 << 20)).collect();
    let laid = Laid { items, places, buffers, batches: vec![160] };
    let placement = laid.placement(&limits);
    check_placement(&laid, &placement, &limits);
    let planned = launches(&placement, &laid.places, &limits, |tensor| tensor.to_string()).unwrap();
    let mut stepped = vec![Vec::new(); laid.items.len()];
    for launch in &planned {
        check_bindings(&laid, launch, &limits);
        for segment in &launch.segments {
            stepped[segment.tensor].push(check_segment(&laid, &placement, launch, segment));
        }
    }
    for ranges in stepped {
        partition(ranges, 64 << 20, "steps");
    }
}

/// One tensor of more than 2^32 elements, were there a buffer for it: nothing is truncated.
#[test]
fn a_tensor_past_2_to_32_elements_is_cut_and_not_truncated() {
    let limits = Limits { buffer: 1 << 40, ..Limits::DEFAULT };
    let len = (1u64 << 32) + 12_345;
    let mut placement = Placement::default();
    placement
        .extend(&[Item { variant: 1, group: 0, planes: planes(1), key: None, len, room: len }], &limits, |item| item);
    partition(placement.pieces_of(0).map(|piece| (piece.start, piece.start + piece.len)).collect(), len, "pieces");
    let place = |buffer| {
        let size = len * ELEMENT;
        Place { span: Span { buffer, offset: 4, size }, room: size, element: ELEMENT }
    };
    let places = [(place(0), place(1))];
    let laid = Laid {
        items: vec![Item { variant: 1, group: 0, planes: planes(1), key: None, len, room: len }],
        places: places.to_vec(),
        buffers: [(0, len * ELEMENT + 4), (1, len * ELEMENT + 4)].into(),
        batches: vec![1],
    };
    check_placement(&laid, &placement, &limits);
    let planned = launches(&placement, &places, &limits, |tensor| tensor.to_string()).unwrap();
    let steps = planned.iter().flat_map(|launch| {
        check_bindings(&laid, launch, &limits);
        launch.segments.iter().map(|segment| check_segment(&laid, &placement, launch, segment)).collect::<Vec<_>>()
    });
    partition(steps.collect(), len, "steps");
}

/// What is bound beside the tensors grows with their number.
#[test]
fn tables_of_three_thousand_tiny_tensors_can_be_bound() {
    let limits = Limits { binding: 32 << 10, buffer: 1 << 20, ..Limits::DEFAULT };
    let tiny =
        |i: u64| Drawn { len: 1 + i % 4, variant: 0, params: (0, 0), grads: (3, 0), padded: 0, apart: true, batch: 0 };
    check((0..3000).map(tiny).collect(), &limits);
}

/// The checks above can fail: each kind of mistake, made on purpose, is noticed.
#[test]
fn a_plan_that_is_off_by_one_is_noticed() {
    let drawn =
        |len, gap| Drawn { len, variant: 1, params: (0, gap), grads: (3, gap), padded: 0, apart: true, batch: 0 };
    let laid = Laid::new(vec![drawn(1021, 0), drawn(300, 3), drawn(5, 1)]);
    let limits = Limits { groups: 2, ..Limits::DEFAULT };
    let placement = laid.placement(&limits);
    let planned = launches(&placement, &laid.places, &limits, |tensor| tensor.to_string()).unwrap();
    let fails = |change: &dyn Fn(&mut Launch)| {
        let mut launch = planned[0].clone();
        change(&mut launch);
        let checks = || {
            check_bindings(&laid, &launch, &limits);
            check_runs(&placement, &launch, &limits);
            let check = |segment| check_segment(&laid, &placement, &launch, segment);
            let ranges: Vec<_> = launch.segments.iter().map(check).collect();
            let whole: Vec<_> =
                planned[0].segments.iter().map(|s| check_segment(&laid, &placement, &planned[0], s)).collect();
            assert_eq!(ranges, whole);
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(checks)).is_err()
    };
    assert!(!fails(&|_| ()));
    assert!(fails(&|launch| launch.segments[0].params += 1));
    assert!(fails(&|launch| launch.segments[0].grads += 1));
    assert!(fails(&|launch| launch.segments[0].state += 1));
    assert!(fails(&|launch| launch.segments[0].lanes += 1));
    assert!(fails(&|launch| launch.segments[0].lanes -= 1));
    assert!(fails(&|launch| launch.params.offset += 4));
    assert!(fails(&|launch| launch.params.size -= 8));
    assert!(fails(&|launch| launch.grads = launch.params));
}

/// What an arena is for: as long as its tensors share settings and step count, they are one stretch, and
/// where that is needs no look: but where the grid is folded.
#[test]
fn tensors_of_any_length_in_an_arena_are_one_stretch() {
    for limits in [Limits::DEFAULT, Limits { alignment: 32, ..Limits::DEFAULT }] {
        let lens = (0..1000).map(|i| (i * 37) % 5000 + 1);
        let tensors: Vec<(String, u64)> = lens.map(|len| (format!("of {len}"), len)).collect();
        let tensors: Vec<(&str, u64)> = tensors.iter().map(|(name, len)| (name.as_str(), *len)).collect();
        let plan =
            wgpu_optim::memory_plan(&[(wgpu_optim::Adam::PYTORCH, tensors)], &wgpu_optim::Chain::default(), 0, &limits)
                .unwrap();
        let [(0, run)] = plan.dispatches[..] else { panic!("{} dispatches", plan.dispatches.len()) };
        assert_eq!(run.places(&limits), Places::Origin, "{run:?}");
        let folded = Limits { groups: run.groups() - 1, ..limits };
        assert_eq!(run.places(&folded), Places::Uniform, "{run:?}");
    }
}
