//! What is refused, with its numbers; nothing is recorded or changed then.

use wgpu_optim::map::Map;
use wgpu_optim::{Adam, BufferRange, Error, Optimizer, RowMap, Rows, Tensor, wgpu};

use crate::stand::{Held, Spec, Stand, buffer, download, list, small, tensor};
use crate::support::{self, Gpu};

const SPECS: [Spec; 2] = [(30, 3, 0), (20, 4, 0)];

/// A stand that has taken a step.
fn running(gpu: &Gpu) -> Stand<Adam> {
    let mut stand = Stand::new(gpu, Adam::PYTORCH, &SPECS);
    stand.step_both(&[]);
    stand
}

/// All that a refused call must leave as it is.
fn all(stand: &Stand<Adam>) -> (Vec<Held>, Vec<u32>, u64, Vec<u64>) {
    let tensors = stand.optimizer.tensors().iter().map(|tensor| tensor.params().len()).collect();
    let step = stand.optimizer.step_of("t0").unwrap();
    (stand.held(), download(&stand.gpu, &(&stand.params).into()), step, tensors)
}

/// What is answered to `attempt`; what it recorded is submitted, and changes nothing, and steps go on.
fn refused(gpu: &Gpu, attempt: impl FnOnce(&mut Stand<Adam>, &mut wgpu::CommandEncoder) -> Result<(), Error>) -> Error {
    let mut stand = running(gpu);
    let before = all(&stand);
    let mut encoder = stand.encoder();
    let error = attempt(&mut stand, &mut encoder).expect_err("this was to be refused");
    stand.submit(encoder);
    assert!(all(&stand) == before, "a refused call changed something: {error}");
    stand.step_both(&[(1, &[3, 4])]);
    stand.beside_twin("after a refusal");
    let message = error.to_string();
    assert!(!message.ends_with('.') && !message.starts_with(char::is_uppercase), "{message:?}");
    error
}

fn rows_of(gpu: &Gpu, name: &str, rows: impl Fn(&Stand<Adam>) -> Rows) -> String {
    let told = [
        refused(gpu, |stand, encoder| {
            let rows = rows(stand);
            stand.optimizer.record_rows(&stand.gpu.device, encoder, [(name, rows)])
        }),
        refused(gpu, |stand, encoder| {
            let rows = rows(stand);
            stand.optimizer.reset_rows(&stand.gpu.device, encoder, [(name, rows)])
        }),
    ];
    assert_eq!(told[0], told[1]);
    told[0].to_string()
}

#[test]
fn lists_that_cannot_be_bound_are_refused() {
    let Some(gpu) = support::gpu() else { return };
    let own = buffer(&gpu, &[0; 8]);
    let short = |_: &Stand<Adam>| Rows::new(BufferRange::new(&own, 4, 32));
    let told = rows_of(&gpu, "t0", short);
    assert_eq!(told, r#"rows of "t0": the range ends at byte 36, its buffer at 32"#);
    let odd = |_: &Stand<Adam>| Rows::new(BufferRange::new(&own, 2, 8));
    assert_eq!(rows_of(&gpu, "t0", odd), r#"rows of "t0": offset 2 and size 8 must be multiples of 4 bytes"#);
    let count = |_: &Stand<Adam>| Rows::new(&own).counted(&own, 32);
    assert_eq!(rows_of(&gpu, "t0", count), r#"the count of rows of "t0": the range ends at byte 36, its buffer at 32"#);
    let usage = wgpu::BufferUsages::COPY_DST;
    let label = Some("a buffer that no kernel reads");
    let unread =
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size: 32, usage, mapped_at_creation: false });
    let told = rows_of(&gpu, "t1", |_| Rows::new(&unread));
    assert_eq!(told, r#"rows of "t1": the buffer lacks usage STORAGE; create it with that usage"#);
    let in_params = |stand: &Stand<Adam>| Rows::new(stand.params.slice(0..16));
    let told = "must not lie in the buffer of its parameters, which is written; use another buffer";
    assert_eq!(rows_of(&gpu, "t0", in_params), format!(r#"rows of "t0" {told}"#));
    let in_grads = |stand: &Stand<Adam>| Rows::new(&own).counted(&stand.grads, 0);
    let told = "must not lie in the buffer of its gradient, which is written; use another buffer";
    assert_eq!(rows_of(&gpu, "t0", in_grads), format!(r#"the count of rows of "t0" {told}"#));
    let in_state = |stand: &Stand<Adam>| Rows::new(stand.optimizer.state_ranges("t0", "exp_avg").unwrap()[0].clone());
    let told = "must not lie in the buffer of its state, which is written; use another buffer";
    assert_eq!(rows_of(&gpu, "t0", in_state), format!(r#"rows of "t0" {told}"#));
    let told = rows_of(&gpu, "t3", |_| Rows::new(&own));
    assert_eq!(told, r#"no tensor is named "t3"; the nearest is "t0""#);
}

#[test]
fn a_list_is_not_given_twice() {
    let Some(gpu) = support::gpu() else { return };
    let rows = list(&gpu, &[1, 2]);
    let error = refused(&gpu, |stand, encoder| {
        let twice = [("t0", rows.clone()), ("t1", rows.clone()), ("t0", rows.clone())];
        stand.optimizer.record_rows(&stand.gpu.device, encoder, twice)
    });
    assert_eq!(error, Error::DuplicateName { name: "t0".into() });
    let error = refused(&gpu, |stand, encoder| {
        let written = Rows::new(stand.params.slice(0..4));
        stand.optimizer.record_rows(&stand.gpu.device, encoder, [("t1", rows.clone()), ("t0", written)])
    });
    assert_eq!(error, Error::SameBuffer { what: "rows", name: "t0".into(), of: "parameters" });
}

#[test]
fn a_tensor_without_a_shape_has_no_rows() {
    let Some(gpu) = support::gpu() else { return };
    let own = || buffer(&gpu, &[0; 12]);
    let plain = Tensor::new("w", &own(), &own());
    let scalar = Tensor::new("s", own().slice(0..4), own().slice(0..4)).with_shape([]);
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [plain.clone(), scalar]).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let told = "has no shape, so it has no rows; give the tensor one with with_shape([rows, …])";
    for name in ["w", "s"] {
        let error = optimizer.record_rows(&gpu.device, &mut encoder, [(name, Rows::new(&own()))]).unwrap_err();
        assert_eq!(error.to_string(), format!("{name:?} {told}"));
        assert_eq!(error, Error::NoRows { name: name.into() });
    }
    let remap = [(plain.with_shape([3, 4]), Map::new([0, 1, 2]))];
    let error = optimizer.remap_rows(&gpu.device, &mut encoder, remap).unwrap_err();
    assert_eq!(error.to_string(), format!(r#""w" {told}"#));
    assert_eq!(optimizer.step_of("w").unwrap(), 0);
}

#[test]
fn a_list_that_no_binding_holds_is_refused() {
    let Some(gpu) = small() else { return };
    let long = buffer(&gpu, &vec![0; (1 << 18) + 1]);
    let told = rows_of(&gpu, "t0", |_| Rows::new(&long));
    let (least, most) = ((1 << 20) + 4, 1 << 20);
    assert!(told.starts_with(&format!("the device's limit max_storage_buffer_binding_size is {most}, at least ")));
    let needed: u64 = told.split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((least..least + 256 + 1).contains(&needed), "{told}");
}

#[test]
fn more_listed_elements_than_can_be_counted_are_refused() {
    let Some(gpu) = support::gpu() else { return };
    let (rows, width) = (1 << 16, 1 << 17);
    let buffers = [buffer(&gpu, &vec![0; width]), buffer(&gpu, &vec![0; width])];
    let wide = tensor(0, [&buffers[0], &buffers[1]], 0, [1, width]);
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [wide]).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let long = Rows::new(&buffer(&gpu, &vec![0; rows]));
    let error = optimizer.record_rows(&gpu.device, &mut encoder, [("t0", long)]).unwrap_err();
    assert_eq!(error.to_string(), r#"listed rows of "t0": 8589934592 elements, at most 4294967040"#);
}

/// What is answered to a new place, given the stand, and a map.
fn remap_of(gpu: &Gpu, map: impl Into<RowMap>, place: impl FnOnce(&Stand<Adam>) -> Tensor) -> String {
    let error = refused(gpu, |stand, encoder| {
        let place = place(stand);
        stand.optimizer.remap_rows(&stand.gpu.device, encoder, [(place, map)])
    });
    error.to_string()
}

fn elsewhere(gpu: &Gpu, i: usize, shape: [usize; 2]) -> Tensor {
    let own = || buffer(gpu, &vec![0; shape[0] * shape[1]]);
    tensor(i, [&own(), &own()], 0, shape)
}

#[test]
fn maps_and_places_that_do_not_fit_are_refused() {
    let Some(gpu) = support::gpu() else { return };
    let told = remap_of(&gpu, Map::append(30, 1), |_| elsewhere(&gpu, 0, [30, 3]));
    assert_eq!(told, r#"the map of "t0" is of 31 rows, expected 30"#);
    let told = remap_of(&gpu, Map::new([0, 30]), |_| elsewhere(&gpu, 0, [2, 3]));
    assert_eq!(told, r#"row 1 of the map of "t0" comes from row 30, there are 30; a fresh row is 4294967295"#);
    let told = remap_of(&gpu, Map::new([0, 1]), |_| elsewhere(&gpu, 0, [2, 4]));
    assert_eq!(told, r#"a row of "t0" would have 4 elements, it has 3"#);
    let told = remap_of(&gpu, Map::new([0, 1]), |_| elsewhere(&gpu, 7, [2, 3]));
    assert!(told.starts_with(r#"no tensor is named "t7""#), "{told}");
    let short = buffer(&gpu, &[0; 1]);
    let told = remap_of(&gpu, BufferRange::from(&short), |_| elsewhere(&gpu, 0, [2, 3]));
    assert_eq!(told, r#"the map of "t0" is of 1 rows, expected 2"#);
    let place = elsewhere(&gpu, 0, [2, 3]);
    let told = remap_of(&gpu, BufferRange::new(place.params().buffer(), 0, 8), |_| place.clone());
    assert_eq!(
        told,
        r#"the map of "t0" must not lie in the buffer of its parameters, which is written; use another buffer"#
    );
    // Over the other tensor's parameters, which stay where they are.
    let over = |stand: &Stand<Adam>| {
        let other = (stand.optimizer.tensors()[1].params().offset() / 4) as usize;
        tensor(0, [&stand.params, &stand.grads], other - 4, [2, 3])
    };
    let told = remap_of(&gpu, Map::new([0, 1]), over);
    assert!(told.starts_with(r#"parameters of "t0" and parameters of "t1" overlap: bytes "#), "{told}");
    let in_state = |stand: &Stand<Adam>| {
        let page = stand.optimizer.state_ranges("t0", "exp_avg").unwrap()[0].buffer().clone();
        tensor(0, [&page, &stand.grads], 0, [2, 3])
    };
    let told = remap_of(&gpu, Map::new([0, 1]), in_state);
    assert!(told.starts_with("the optimizer's own state and parameters of \"t0\" overlap"), "{told}");
}

#[test]
fn one_remap_that_is_refused_refuses_all() {
    let Some(gpu) = support::gpu() else { return };
    let error = refused(&gpu, |stand, encoder| {
        let good = (elsewhere(&gpu, 0, [31, 3]), Map::append(30, 1));
        let bad = (elsewhere(&gpu, 1, [21, 4]), Map::append(20, 2));
        stand.optimizer.remap_rows(&stand.gpu.device, encoder, [good, bad])
    });
    assert_eq!(error, Error::Map { name: "t1".into(), found: 22, expected: 21 });
    let error = refused(&gpu, |stand, encoder| {
        let good = (elsewhere(&gpu, 0, [31, 3]), Map::append(30, 1));
        let bad = (elsewhere(&gpu, 1, [2, 4]), Map::new([19, 20]));
        stand.optimizer.remap_rows(&stand.gpu.device, encoder, [good, bad])
    });
    assert_eq!(error, Error::MapRow { name: "t1".into(), row: 1, from: 20, rows: 20 });
    let error = refused(&gpu, |stand, encoder| {
        let good = (elsewhere(&gpu, 0, [31, 3]), Map::append(30, 1));
        let bad = (elsewhere(&gpu, 1, [20, 5]), Map::append(20, 0));
        stand.optimizer.remap_rows(&stand.gpu.device, encoder, [good, bad])
    });
    assert_eq!(error, Error::RowLength { name: "t1".into(), found: 5, expected: 4 });
    let error = refused(&gpu, |stand, encoder| {
        let twice = [1, 2].map(|more| (elsewhere(&gpu, 0, [30 + more, 3]), Map::append(30, more as u32)));
        stand.optimizer.remap_rows(&stand.gpu.device, encoder, twice)
    });
    assert_eq!(error, Error::DuplicateName { name: "t0".into() });
}
