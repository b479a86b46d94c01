//! What a state file knows of a run as a whole.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use wgpu_optim::Chain;
use wgpu_optim::chain::control::Control;

/// How far a run has come, besides what is known of each tensor.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Files of gradients so far, those of skipped steps included.
    pub recorded: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scaler: Option<Scaling>,
}

/// What a scaler remembers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scaling {
    scale: f32,
    growth_tracker: u32,
    skipped: u64,
}

/// More steps than a run can have: each is a file.
const MOST: u64 = 1 << 31;

impl Progress {
    /// So many steps, and the scaler's memory where there is one.
    pub fn new(chain: &Chain, recorded: u64, control: Control) -> Self {
        let Control { scale, growth_tracker, skipped } = control;
        let scaler = chain.scaler.as_ref().map(|_| Scaling { scale, growth_tracker, skipped });
        Self { recorded, scaler }
    }

    /// The scaler's memory.
    pub fn control(&self) -> Option<Control> {
        let Scaling { scale, growth_tracker, skipped } = self.scaler?;
        Some(Control { scale, growth_tracker, skipped })
    }

    /// # Errors
    /// For numbers that no run could have come to.
    pub fn parse(text: &str) -> Result<Self> {
        let progress: Self = serde_json::from_str(text)?;
        let Self { recorded, scaler } = progress;
        if recorded > MOST {
            bail!("recorded is {recorded}, expected at most {MOST}");
        }
        let Some(Scaling { scale, growth_tracker, skipped }) = scaler else { return Ok(progress) };
        if !(scale.is_finite() && scale > 0.0) {
            bail!("scale is {scale}, expected a finite scale > 0");
        }
        for (what, found) in [("growth_tracker", growth_tracker.into()), ("skipped", skipped)] {
            if found > recorded {
                bail!("{what} is {found}, and there were only {recorded} steps");
            }
        }
        Ok(progress)
    }
}
