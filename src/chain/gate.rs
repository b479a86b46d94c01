//! One element through the chain: what a step makes of its gradient, and of the parameter that the rule hands back.

use super::Chain;
use crate::wgsl::{Lane, Real, max, min, select};

/// What the elements of one class need to know in one step, in the order of `struct Gate` in the shader.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Gate<T> {
    /// What the gradient is multiplied by: one over the scale, times what the clip says.
    pub factor: T,
    /// The most that its magnitude may be then.
    pub limit: T,
    /// The range of the parameter.
    pub least: T,
    /// The range of the parameter.
    pub most: T,
    /// The shares of the average and of the parameter in the next average.
    pub keep: T,
    /// The shares of the average and of the parameter in the next average.
    pub take: T,
    /// 1 where the average is put in the place of the parameter, else 0.
    pub overwrite: f32,
    /// 1 where the step is left out, which only a device finds out here.
    pub skip: f32,
}

/// What is in the kernel at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the shader's names for its switches tell it")]
pub struct Switches {
    pub factor: bool,
    pub limit: bool,
    pub clamp: bool,
    pub ema: bool,
    pub accumulated: bool,
    pub zero_grads: bool,
}

impl Switches {
    /// Those of a chain.
    pub fn of(chain: &Chain) -> Self {
        Self {
            factor: chain.measures(),
            limit: chain.limit().is_some(),
            clamp: chain.clamp.is_some(),
            ema: chain.ema.is_some(),
            accumulated: chain.accumulate,
            zero_grads: chain.zero_grads && !chain.accumulate,
        }
    }

    /// Each under its name in the shader.
    pub fn by_name(&self) -> [(&'static str, bool); 6] {
        [
            ("HAS_FACTOR", self.factor),
            ("HAS_LIMIT", self.limit),
            ("HAS_CLAMP", self.clamp),
            ("HAS_EMA", self.ema),
            ("HAS_ACCUMULATED", self.accumulated),
            ("HAS_ZERO_GRADS", self.zero_grads),
        ]
    }
}

impl Gate<f64> {
    /// That of a tensor's `step`th step, in which its gradient is multiplied by `factor`.
    pub fn of(chain: &Chain, step: u64, factor: f64) -> Self {
        let (least, most) = chain.clamp.as_ref().map_or((0.0, 0.0), |clamp| (clamp.min, clamp.max));
        let keep = chain.ema.as_ref().map_or(0.0, |ema| ema.keep(step));
        let overwrite = chain.ema.as_ref().is_some_and(|ema| ema.overwrites(step));
        let limit = chain.limit().unwrap_or(0.0);
        let overwrite = f32::from(u8::from(overwrite));
        Self { factor, limit, least, most, keep, take: 1.0 - keep, overwrite, skip: 0.0 }
    }
}

impl<T: Real> Gate<T> {
    /// The same in another number.
    pub fn cast<U: Real>(&self) -> Gate<U> {
        let cast = |x: T| U::from_f64(x.to_f64());
        Gate {
            factor: cast(self.factor),
            limit: cast(self.limit),
            least: cast(self.least),
            most: cast(self.most),
            keep: cast(self.keep),
            take: cast(self.take),
            overwrite: self.overwrite,
            skip: self.skip,
        }
    }

    /// The words that the shader reads; `step_key` is the step's word of chance.
    pub fn words(&self, step_key: u32) -> [u32; 12] {
        let numbers = [self.factor, self.limit, self.least, self.most, self.keep, self.take];
        let [factor, limit, least, most, keep, take] = numbers.map(|x| x.to_f64() as f32);
        let numbers = [factor, limit, least, most, keep, take, self.overwrite, self.skip].map(f32::to_bits);
        let mut words = [0; 12];
        words[..numbers.len()].copy_from_slice(&numbers);
        words[numbers.len()] = step_key;
        words
    }

    /// The gradient as the rule takes it.
    #[allow(non_snake_case, reason = "the shader's names for its switches")]
    #[inline(always)]
    pub fn receive(&self, on: Switches, g0: T) -> T {
        let (gate, HAS_FACTOR, HAS_LIMIT) = (self, on.factor, on.limit);
        // <receive>
        let f = select(g0, gate.factor * g0, HAS_FACTOR);
        let most = gate.limit + Lane(0.0);
        let g = select(f, max(min(f, most), -most), HAS_LIMIT);
        // </receive>
        g
    }

    /// The parameter and its average, from the parameter that the rule hands back and the average before.
    #[allow(non_snake_case, reason = "the shader's names for its switches")]
    #[inline(always)]
    pub fn settle(&self, on: Switches, p0: T, e0: T) -> (T, T) {
        let (gate, HAS_CLAMP, HAS_EMA) = (self, on.clamp, on.ema);
        // <settle>
        let least = gate.least + Lane(0.0);
        let most = gate.most + Lane(0.0);
        let c = select(p0, min(max(p0, least), most), HAS_CLAMP);
        let e = gate.keep * e0 + gate.take * c;
        let p = select(c, e, HAS_EMA & (gate.overwrite > 0.0));
        // </settle>
        (p, e)
    }
}
