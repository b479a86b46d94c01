//! What two files must agree on, held without a GPU.

use std::collections::BTreeSet;
use std::path::Path;

use naga::proc::Layouter;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu_optim::format::stored::Stored;
use wgpu_optim::kernel::{self, Move, Walk, Work};
use wgpu_optim::plan::{Lanes, Places};
use wgpu_optim::rule::{Correction, MAX_SLOTS, Rule, Scalars, Visitor, kept_slots, visit};
use wgpu_optim::{Chain, Clip, Ema, Scaler};

const LANES: [Lanes; 2] = [Lanes::Quads, Lanes::Words];
const WALKS: [Walk; 2] = [Walk::Tensors { places: Places::Table }, Walk::Rows { counted: true }];
const WORKS: [Work; 12] = [
    Work::Step,
    Work::Gated,
    Work::Watched,
    Work::Accumulate,
    Work::Measure,
    Work::Gather,
    Work::GatherUpdates,
    Work::Control,
    Work::Reset,
    Work::Remap(Move::Words),
    Work::Remap(Move::Halves),
    Work::Remap(Move::Widened { f16: true }),
];

/// Chains that together set every override.
fn chains() -> [Chain; 2] {
    let whole = Chain {
        clip: Some(Clip::global_norm(1.0)),
        scaler: Some(Scaler::PYTORCH),
        ema: Some(Ema::KERAS),
        accumulate: true,
        ..Chain::default()
    };
    [Chain::default(), whole]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The names of the files in a folder.
fn files(folder: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn parse<R: Rule>(work: Work, lanes: Lanes, walk: Walk) -> naga::Module {
    let text = kernel::text_of::<R>(work, lanes, walk, &Stored::default());
    naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&text)))
}

/// The lines between two marks such as `// <update>`, as they stand.
fn block<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let after = text.split(&format!("// <{mark}>")).nth(1).unwrap_or_else(|| panic!("no `// <{mark}>`"));
    let inside = after.split(&format!("// </{mark}>")).next().unwrap();
    inside.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// A Rust block as rustfmt leaves it: one statement a line again.
fn statements(lines: &[&str]) -> Vec<String> {
    let joined = lines.join(" ").replace("( ", "(").replace(", )", ")").replace(" )", ")");
    joined.split_inclusive(';').map(|statement| statement.trim().to_string()).collect()
}

struct SameText;

impl Visitor for SameText {
    fn rule<R: Rule>(&mut self) {
        let rust = read(&format!("src/rule/{}.rs", R::NAME));
        let wgsl = read(&format!("shaders/rule/{}.wgsl", R::NAME));
        assert_eq!(R::WGSL, wgsl, "{} carries another shader than its name says", R::NAME);
        let (rust, wgsl) = (statements(&block(&rust, "update")), statements(&block(&wgsl, "update")));
        assert!(rust.len() > 4, "{}: the update has only {} lines", R::NAME, rust.len());
        assert_eq!(rust, wgsl, "{}: the update is not one text in two tongues", R::NAME);
        for line in &wgsl {
            assert!(line.starts_with("let "), "{}: only `let` in the update, not {line}", R::NAME);
            let bare = line.split("Lane(").map(|part| part.trim_start_matches("0.0)")).collect::<String>();
            assert!(!bare.contains(".0"), "{}: a bare literal in the update: {line}", R::NAME);
        }
    }
}

#[test]
fn each_update_is_one_text_in_two_tongues() {
    visit(&mut SameText);
}

/// What is around the update, too, is one text.
#[test]
fn the_chain_is_one_text_in_two_tongues() {
    let texts = [
        ("src/chain/gate.rs", "shaders/chain/gated.wgsl", "receive", 3),
        ("src/chain/gate.rs", "shaders/chain/gated.wgsl", "settle", 5),
        ("src/chain/control.rs", "shaders/chain/control.wgsl", "clip", 2),
        ("src/rule/correction.rs", "shaders/chain/control.wgsl", "correct", 7),
        ("src/rule/correction.rs", "shaders/chain/control.wgsl", "bias", 3),
    ];
    for (rust, wgsl, mark, lines) in texts {
        let (ours, shader) = (read(rust), read(wgsl));
        let (ours, shader) = (statements(&block(&ours, mark)), statements(&block(&shader, mark)));
        assert_eq!(ours, shader, "{mark} of {rust} and {wgsl} is not one text");
        assert_eq!(ours.len(), lines, "{mark} of {rust}");
    }
}

/// So are the formats, whose constants have the same names and values in both tongues.
#[test]
fn the_formats_are_one_text_in_two_tongues() {
    let texts = [
        ("halves", "to_bf16", 5),
        ("halves", "from_bf16", 1),
        ("halves", "to_f16", 13),
        ("halves", "from_f16", 4),
        ("noise", "mixed", 3),
        ("noise", "stream", 1),
        ("noise", "noise", 1),
        ("blocks", "encode_q8", 19),
        ("blocks", "decode_q8", 8),
    ];
    for (file, mark, lines) in texts {
        let (rust, wgsl) = (read(&format!("src/format/{file}.rs")), read(&format!("shaders/format/{file}.wgsl")));
        let (ours, shader) = (statements(&block(&rust, mark)), statements(&block(&wgsl, mark)));
        assert_eq!(ours, shader, "{mark} of {file} is not one text");
        assert_eq!(ours.len(), lines, "{mark} of {file}");
        let known = constants(&rust, &wgsl, mark);
        assert!(!known.is_empty() || !shader.join(" ").contains(char::is_uppercase), "{mark} of {file}");
    }
}

/// They can be laid beside any kernel: they bind nothing, set nothing, and name nothing but functions and their arguments.
#[test]
fn formats_declare_functions_alone() {
    for file in ["halves", "noise", "blocks"] {
        let text = read(&format!("shaders/format/{file}.wgsl"));
        let module =
            naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&text)));
        Validator::new(ValidationFlags::all(), Capabilities::default()).validate(&module).unwrap();
        assert!(!module.functions.is_empty());
        let declared = |line: &&str| line.starts_with(|first: char| first.is_alphabetic() || first == '@');
        let others: Vec<&str> = text.lines().filter(declared).filter(|line| !line.starts_with("fn ")).collect();
        assert!(others.is_empty(), "{file}: {others:?}");
    }
}

/// The constants that the function `name` of a shader has, each of which Rust has by that name and value, in the function
/// or above all of them.
fn constants(rust: &str, wgsl: &str, name: &str) -> Vec<(String, String)> {
    let own = |text: &str, public: &str| -> String {
        let from = text.split(&format!("{public}fn {name}(")).nth(1).unwrap_or_else(|| panic!("no `fn {name}`"));
        from.split("\n}\n").next().unwrap().to_string()
    };
    let top = rust.split("fn ").next().unwrap();
    let listed = named(&(top.to_string() + &own(rust, "pub ")));
    let shader = named(&own(wgsl, ""));
    for (constant, value) in &shader {
        assert!(listed.contains(&(constant.clone(), value.clone())), "{name}: {constant} is not {value} in Rust");
    }
    shader
}

/// The constants of a text, as (name, value), where the value has no spelling of its tongue.
fn named(text: &str) -> Vec<(String, String)> {
    let lines =
        text.lines().filter_map(|line| line.trim().strip_prefix("const ")?.strip_suffix(';')?.split_once(" = "));
    let plain = |value: &str| {
        let value = value.trim_start_matches("U32(").trim_end_matches(['u', ')']).replace('_', "");
        value.replace("0x1p-24f", "1.0 / 16777216.0")
    };
    lines.map(|(name, value)| (name.split(':').next().unwrap().to_string(), plain(value))).collect()
}

/// A correction is a number in both tongues.
#[test]
fn corrections_have_the_numbers_of_the_shader() {
    let shader = read("shaders/chain/control.wgsl");
    let all = [
        ("OVER_FIRST", Correction::OverFirst),
        ("AHEAD", Correction::Ahead),
        ("OVER_SECOND", Correction::OverSecond),
        ("OVER_ROOT_SECOND", Correction::OverRootSecond),
        ("TIMES_SECOND", Correction::TimesSecond),
        ("TIMES_ROOT_SECOND", Correction::TimesRootSecond),
        ("ROOT_SECOND_OVER_FIRST", Correction::RootSecondOverFirst),
    ];
    for (name, how) in all {
        let line = format!("const {name} = {}u;", how as u32);
        assert!(shader.contains(&line), "the shader has no {line}");
    }
}

struct SameScalars;

impl Visitor for SameScalars {
    fn rule<R: Rule>(&mut self) {
        let fields = <R::Hyper<f32> as Scalars<f32>>::FIELDS;
        let module = parse::<R>(Work::Step, Lanes::Quads, WALKS[0]);
        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let hyper = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Hyper")).unwrap();
        let naga::TypeInner::Struct { members, span } = &hyper.1.inner else { panic!("Hyper is a struct") };
        let names: Vec<&str> = members.iter().map(|member| member.name.as_deref().unwrap()).collect();
        assert_eq!(names, fields, "{}: fields of Hyper", R::NAME);
        for (i, member) in members.iter().enumerate() {
            assert_eq!(member.offset as usize, 4 * i, "{}.{}", R::NAME, fields[i]);
            assert_eq!(layouter[member.ty].size, 4, "{}.{}", R::NAME, fields[i]);
        }
        assert_eq!(*span as usize, 4 * fields.len(), "{}: rows of `scalars` are {span} bytes apart", R::NAME);
        // The struct itself, not only its list of names, has this order.
        let numbered = <R::Hyper<f32> as Scalars<f32>>::from_fields(|i| i as f32);
        let expected: Vec<f32> = (0..fields.len()).map(|i| i as f32).collect();
        assert_eq!(numbered.fields(), expected);
    }
}

#[test]
fn each_hyper_has_the_fields_of_its_shader_in_their_order() {
    visit(&mut SameScalars);
}

struct Conventions;

impl Visitor for Conventions {
    fn rule<R: Rule>(&mut self) {
        assert!(R::SLOTS.len() <= MAX_SLOTS);
        let by_lanes = WORKS.into_iter().flat_map(|work| LANES.map(|lanes| (work, lanes)));
        for ((work, lanes), walk) in by_lanes.flat_map(|kernel| WALKS.map(|walk| (kernel, walk))) {
            let module = parse::<R>(work, lanes, walk);
            check_bindings(work, walk, &module);
            check_overrides::<R>(work, walk, &module);
            let mut validator = Validator::new(ValidationFlags::all(), Capabilities::default());
            let valid = validator.validate(&module);
            valid.unwrap_or_else(|error| panic!("{} {work:?} {lanes:?} {walk:?}: {error:?}", R::NAME));
            let entries: Vec<&str> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(entries, [work.entry()]);
        }
    }
}

fn check_bindings(work: Work, walk: Walk, module: &naga::Module) {
    let mut found = BTreeSet::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding.as_ref() else { continue };
        let kind = match variable.space {
            naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => "written",
            naga::AddressSpace::Storage { .. } => "read",
            naga::AddressSpace::Uniform => "uniform",
            _ => panic!("{variable:?}"),
        };
        found.insert((binding.group, binding.binding, variable.name.clone().unwrap(), kind));
    }
    let mut tensors = vec![
        (0, 0, "params", "written"),
        (0, 1, "grads", "written"),
        (0, 2, "state", "written"),
        (0, 4, "run", "uniform"),
    ];
    match walk {
        Walk::Tensors { .. } => tensors.push((0, 3, "places", "read")),
        Walk::Rows { .. } => tensors.extend([(0, 3, "list", "read"), (0, 5, "counts", "read")]),
    }
    let (walks, own): (bool, &[(u32, u32, &str, &str)]) = match work {
        Work::Step | Work::Gated => (true, &[(1, 0, "scalars", "uniform")]),
        Work::Watched => {
            (true, &[(1, 0, "scalars", "uniform"), (2, 0, "partials", "written"), (2, 1, "job", "uniform")])
        }
        Work::Accumulate => (true, &[(1, 0, "share", "uniform")]),
        Work::Measure => (true, &[(1, 0, "partials", "written"), (1, 1, "job", "uniform")]),
        Work::Reset => (true, &[(1, 0, "start", "uniform")]),
        Work::Remap(_) => (
            false,
            &[(0, 0, "sources", "read"), (0, 1, "targets", "written"), (0, 2, "map", "read"), (0, 3, "job", "uniform")],
        ),
        Work::Gather | Work::GatherUpdates => {
            (false, &[(0, 0, "partials", "read"), (0, 1, "scopes", "read"), (0, 2, "sums", "written")])
        }
        Work::Control => (
            false,
            &[
                (0, 0, "orders", "read"),
                (0, 1, "sums", "read"),
                (0, 2, "scaler", "written"),
                (0, 3, "steps", "written"),
                (0, 4, "roll", "read"),
                (0, 5, "rows", "written"),
                (0, 6, "report", "written"),
            ],
        ),
    };
    // Parameters are bound wherever tensors are walked, and declared where they are read.
    let steps = matches!(work, Work::Step | Work::Gated | Work::Watched | Work::Reset);
    let expected = tensors.iter().filter(|(.., name, _)| walks && (steps || *name != "params")).chain(own);
    let expected = expected.map(|&(group, binding, name, kind)| (group, binding, name.to_string(), kind));
    assert_eq!(found, expected.collect(), "{work:?} {walk:?}");
}

/// The overrides that the host sets for any settings are those that the shader has.
fn check_overrides<R: Rule>(work: Work, walk: Walk, module: &naga::Module) {
    let has = |(_, constant): (_, &naga::Override)| constant.name.clone().unwrap();
    let shader: BTreeSet<String> = module.overrides.iter().map(has).collect();
    let mut host = BTreeSet::new();
    for (case, settings) in R::cases() {
        for chain in chains() {
            let slots = kept_slots(&settings).into_iter().map(|slot| R::SLOTS[slot]).chain(chain.slots());
            let set = kernel::overrides_of(work, &settings, &chain, walk, &Stored::plain(slots));
            let set: BTreeSet<String> = set.into_iter().map(|(name, _)| name).collect();
            assert!(set.is_subset(&shader), "{} {work:?} {case} sets {set:?}, the shader has {shader:?}", R::NAME);
            host.extend(set);
        }
    }
    assert_eq!(host, shader, "{} {work:?}: overrides that no case sets", R::NAME);
    if !matches!(work, Work::Step | Work::Gated | Work::Watched) {
        return;
    }
    let planes = R::SLOTS.iter().map(|slot| format!("PLANE_{}", slot.to_uppercase()));
    assert!(planes.into_iter().all(|plane| shader.contains(&plane)), "{}: {shader:?}", R::NAME);
}

#[test]
fn each_kernel_keeps_the_conventions_and_is_valid() {
    visit(&mut Conventions);
}

#[test]
fn quads_and_words_offer_the_same_functions() {
    let functions = |path: &str| -> Vec<String> {
        read(path).lines().filter(|line| line.starts_with("fn ")).map(String::from).collect()
    };
    let stored = |file: &str| file.starts_with("params") || file.starts_with("grads") || file.starts_with("state");
    let mut seen = 0;
    for file in files("shaders/quads") {
        let quads = functions(&format!("shaders/quads/{file}"));
        // How four halves lie in words is theirs; what is made of them is not.
        if stored(&file) {
            let public = |all: Vec<String>| -> Vec<String> {
                all.into_iter().filter(|line| !line.starts_with("fn decoded")).collect()
            };
            assert_eq!(public(quads), public(functions(&format!("shaders/words/{file}"))), "{file}");
        } else if file != "halves.wgsl" {
            assert_eq!(quads, functions(&format!("shaders/words/{file}")), "{file}");
        }
        seen += 1;
    }
    assert!(seen > 5);
    assert_eq!(files("shaders/quads"), files("shaders/words"));
}

#[test]
fn walks_offer_the_same_functions() {
    let functions = |path: &str| -> Vec<String> {
        read(path).lines().filter(|line| line.starts_with("fn ")).map(String::from).collect()
    };
    let (all, rows) = (functions("shaders/walk.wgsl"), functions("shaders/rows.wgsl"));
    assert!(!all.is_empty() && all.iter().all(|function| rows.contains(function)), "{all:?} {rows:?}");
}

#[test]
fn every_shader_file_belongs_to_a_kernel() {
    struct Names(BTreeSet<String>);
    impl Visitor for Names {
        fn rule<R: Rule>(&mut self) {
            self.0.insert(format!("{}.wgsl", R::NAME));
        }
    }
    let mut names = Names(BTreeSet::new());
    visit(&mut names);
    assert_eq!(files("shaders/rule"), names.0);
}

/// The floors, ground to top, as `lib.rs` lists them. A file may name those on lower lines, never higher ones.
#[test]
fn floors_only_look_down() {
    let lib = read("src/lib.rs");
    let floor = |line: &str| {
        let line = line.trim_start_matches("pub ");
        line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')).map(String::from)
    };
    let floors: Vec<String> = lib.lines().filter_map(floor).collect();
    assert!(floors.len() >= 12, "{floors:?}");
    let mut seen = 0;
    for (height, floor) in floors.iter().enumerate() {
        let mut files = vec![format!("src/{floor}.rs")];
        if let Ok(folder) = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(floor)) {
            let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
            files.extend(folder.map(|entry| format!("src/{floor}/{}", name(entry).to_string_lossy())));
        }
        for file in files {
            let text = read(&file);
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for path in code.flat_map(|line| line.split("crate::").skip(1).map(String::from).collect::<Vec<_>>()) {
                let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                seen += 1;
                let above = floors[height + 1..].contains(&name);
                assert!(!above, "{file} looks up at `{name}`");
            }
        }
    }
    assert!(seen > 30, "only {seen} paths were looked at");
}

#[test]
fn below_the_line_nothing_names_wgpu() {
    let lib = read("src/lib.rs");
    let pure = lib.split("#[cfg(feature = \"gpu\")]").next().unwrap();
    let floors = pure.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    for floor in floors {
        let file = format!("src/{}.rs", floor.trim_end_matches(';'));
        let text = read(&file);
        let uses = text.lines().find(|line| line.contains("wgpu::") && !line.trim_start().starts_with("//"));
        assert_eq!(uses, None, "{file}");
    }
}
