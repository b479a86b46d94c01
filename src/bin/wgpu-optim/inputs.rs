//! Parameters and gradients: opened, and held against each other before anything is stepped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use wgpu_optim::Rule;
use wgpu_optim::safetensors::{Archive, Dtype, Entry};

use crate::config::Config;
use crate::report::nearest;

/// Parameters, and files of gradients that fit them.
pub struct Inputs {
    pub params: Archive,
    pub grads: Vec<PathBuf>,
    /// The parameters that have a gradient in any file, or all that could, where no file is given.
    graded: BTreeSet<String>,
}

/// A tensor that is stepped.
pub struct Member {
    pub name: String,
    pub shape: Vec<u64>,
    pub len: u64,
    pub group: usize,
}

impl Inputs {
    /// Opens every file and checks every header.
    ///
    /// # Errors
    /// With the file, the tensor, and what does not fit.
    pub fn open(params: &Path, grads: &[PathBuf]) -> Result<Self> {
        let params = Archive::open(params)?;
        let mut graded = BTreeSet::new();
        for path in grads {
            // Opened again when its step comes: there may be more files than can be open at once.
            let file = Self::open_grads(&params, path)?;
            graded.extend(file.names().map(str::to_string));
        }
        if grads.is_empty() {
            let steppable = params.entries().iter().filter(|entry| entry.dtype == Dtype::F32);
            graded.extend(steppable.map(|entry| entry.name.clone()));
        }
        Ok(Self { params, grads: grads.to_vec(), graded })
    }

    /// Opens the gradients of one step.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_grads(params: &Archive, path: &Path) -> Result<Archive> {
        let grads = Archive::open(path)?;
        for gradient in grads.entries() {
            check(params, &grads, gradient)?;
        }
        Ok(grads)
    }

    /// Whether a parameter has a gradient in any file.
    pub fn has_gradient(&self, name: &str) -> bool {
        self.graded.contains(name)
    }

    /// The tensors that are stepped, by group. One without elements has nothing to step.
    pub fn members<R: Rule>(&self, config: &Config<R>) -> Vec<Member> {
        let graded = self.params.entries().iter().filter(|entry| self.has_gradient(&entry.name));
        let mut members: Vec<Member> = graded
            .filter(|entry| !entry.is_empty())
            .map(|entry| Member {
                name: entry.name.clone(),
                shape: entry.shape.clone(),
                len: entry.len(),
                group: config.group_of(&entry.name),
            })
            .collect();
        members.sort_by_key(|member| member.group);
        members
    }
}

fn check(params: &Archive, grads: &Archive, gradient: &Entry) -> Result<()> {
    let (file, name) = (grads.path(), &gradient.name);
    let Some(param) = params.get(name) else {
        let nearest = match nearest(name, params.names()) {
            Some(nearest) => format!("; the nearest there is {nearest:?}"),
            None => String::new(),
        };
        bail!("{file}: gradient {name:?} has no parameter in {}{nearest}", params.path());
    };
    if gradient.shape != param.shape {
        let (found, expected) = (&gradient.shape, &param.shape);
        bail!("{file}: gradient {name:?} has shape {found:?}, in {} it is {expected:?}", params.path());
    }
    if gradient.dtype != param.dtype {
        let (found, expected) = (gradient.dtype, param.dtype);
        bail!("{file}: gradient {name:?} is {found}, in {} it is {expected}; store both as F32", params.path());
    }
    if [Dtype::F16, Dtype::BF16].contains(&param.dtype) {
        bail!("{file}: {name:?} is {}, which comes in a later version; store it as F32", param.dtype);
    }
    if param.dtype != Dtype::F32 {
        bail!("{file}: {name:?} is {}, and only F32 can be stepped; leave its gradient out", param.dtype);
    }
    Ok(())
}
