//! The files and overrides of a kernel that tell how what it moves lies in memory.

use super::Work;
use crate::format::stored::Stored;
use crate::format::{Format, KAHAN, MASTER, Q8Zero, Storage};
use crate::plan::Lanes;

/// A file of one of the two kinds of lanes.
macro_rules! of_lanes {
    ($lanes:expr, $file:literal) => {
        match $lanes {
            Lanes::Quads => include_str!(concat!("../../shaders/quads/", $file)),
            Lanes::Words => include_str!(concat!("../../shaders/words/", $file)),
        }
    };
}

/// What of the formats decides which files there are; the rest are overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Widths {
    params_halved: bool,
    grads_halved: bool,
    /// Bytes of an element in the narrowest plane of the state.
    narrowest: u64,
    chance: bool,
}

impl Widths {
    pub fn of(stored: &Stored) -> Self {
        Self {
            params_halved: stored.params != Format::F32,
            grads_halved: stored.grads != Format::F32,
            narrowest: stored.narrowest(),
            chance: stored.has_chance(),
        }
    }

    /// The files with the entry point of a step.
    pub fn step(self, work: Work) -> Vec<&'static str> {
        const FORMATTED: &str = include_str!("../../shaders/format/step.wgsl");
        const WATCHED: &str = include_str!("../../shaders/chain/watched.wgsl");
        const STEADY: &str = include_str!("../../shaders/format/steady.wgsl");
        const WHOLE: &str = include_str!("../../shaders/format/whole.wgsl");
        let blocks = self.narrowest == 1;
        if work != Work::Watched && !blocks && !self.chance {
            return vec![include_str!("../../shaders/step.wgsl")];
        }
        let steady = (!self.begins(work)).then_some(STEADY);
        let whole = (!blocks).then_some(WHOLE);
        let step = if work == Work::Watched { WATCHED } else { FORMATTED };
        steady.into_iter().chain(whole).chain([step]).collect()
    }

    /// Whether its files say how a lane begins.
    fn begins(self, work: Work) -> bool {
        self.chance || self.halves(work)
    }

    /// The files of lanes, of what they read and write, and of how that is rounded.
    pub fn files(self, work: Work, lanes: Lanes) -> Vec<&'static str> {
        let mut files = vec![of_lanes!(lanes, "lanes.wgsl")];
        if work.reads_params() {
            files.extend(self.params(lanes));
        }
        files.push(match self.grads_halved {
            false => of_lanes!(lanes, "grads32.wgsl"),
            true => of_lanes!(lanes, "grads16.wgsl"),
        });
        files.extend(self.state(lanes));
        files.extend(self.rounding(work, lanes));
        files
    }

    fn params(self, lanes: Lanes) -> Vec<&'static str> {
        match self.params_halved {
            false => vec![of_lanes!(lanes, "params32.wgsl")],
            true => vec![of_lanes!(lanes, "params16.wgsl"), include_str!("../../shaders/format/params.wgsl")],
        }
    }

    fn state(self, lanes: Lanes) -> Vec<&'static str> {
        const PLANES: &str = include_str!("../../shaders/format/planes.wgsl");
        const CODED: &str = include_str!("../../shaders/format/coded.wgsl");
        const BLOCKS: &str = include_str!("../../shaders/format/blocks.wgsl");
        match self.narrowest {
            1 => vec![of_lanes!(lanes, "state8.wgsl"), PLANES, CODED, BLOCKS],
            2 => vec![of_lanes!(lanes, "state16.wgsl"), PLANES],
            _ => vec![of_lanes!(lanes, "state32.wgsl")],
        }
    }

    fn rounding(self, work: Work, lanes: Lanes) -> Vec<&'static str> {
        let mut files = Vec::new();
        if self.halves(work) {
            let codes =
                [include_str!("../../shaders/format/halves.wgsl"), include_str!("../../shaders/format/narrow.wgsl")];
            files.extend(codes);
            files.push(of_lanes!(lanes, "halves.wgsl"));
        }
        if self.chance && work.steps() {
            let noise =
                [include_str!("../../shaders/format/noise.wgsl"), include_str!("../../shaders/format/chance.wgsl")];
            files.extend(noise);
            files.push(of_lanes!(lanes, "chance.wgsl"));
        } else if self.halves(work) {
            files.push(include_str!("../../shaders/format/steady.wgsl"));
        }
        files
    }

    /// Whether there is anything of 16 bits, or might be.
    fn halves(self, work: Work) -> bool {
        self.grads_halved || self.narrowest < 4 || (self.params_halved && work.reads_params())
    }

    /// Vectors of a workgroup in a launch's table.
    pub fn place_vectors(self) -> u32 {
        if self.chance { 2 } else { 1 }
    }
}

/// The overrides of the files above.
pub(super) fn overrides(work: Work, stored: &Stored) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    let mut set = |name: &str, value: f64| all.push((name.to_string(), value));
    let flag = |on: bool| f64::from(u8::from(on));
    let widths = Widths::of(stored);
    if widths.params_halved && work.reads_params() {
        let place = |slot: &str| stored.planes.iter().zip(stored.places()).find(|(plane, _)| plane.slot == slot);
        let place = |slot: &str| place(slot).map_or(0.0, |(_, place)| place as f64);
        set("PARAMS_F16", flag(stored.params == Format::F16));
        set("HAS_MASTER", flag(stored.has_master()));
        set("HAS_KAHAN", flag(stored.has_kahan()));
        set("PLANE_MASTER_PARAM", place(MASTER));
        set("PLANE_KAHAN_COMP", place(KAHAN));
    }
    if widths.grads_halved {
        set("GRADS_F16", flag(stored.grads == Format::F16));
    }
    if widths.narrowest < 4 {
        set("PLANES", stored.mask(|_| true).into());
        set("PLANES_HALF", stored.mask(|storage| matches!(storage, Storage::F16 | Storage::Bf16)).into());
        set("PLANES_F16", stored.mask(|storage| storage == Storage::F16).into());
    }
    if widths.narrowest == 1 {
        set("PLANES_BLOCKS", stored.mask(Storage::has_scales).into());
        set("PLANES_UNSIGNED", stored.mask(|storage| storage == Storage::Q8Unsigned).into());
        set("SCALES", stored.places().last().map_or(0.0, |&end| end as f64));
        set("Q8_GUARDED", flag(stored.q8_zero == Q8Zero::Guarded));
    }
    all
}
