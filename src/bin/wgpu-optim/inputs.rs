//! Parameters and gradients: opened, and held against each other before anything is stepped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use wgpu_optim::Rule;
use wgpu_optim::format::{Format, Formats};
use wgpu_optim::safetensors::{Archive, Entry};

use crate::config::Config;
use crate::numbers::{dtype_of, format_of};
use crate::report::nearest;

/// Parameters, and files of gradients that fit them.
pub struct Inputs {
    pub params: Archive,
    pub grads: Vec<PathBuf>,
    /// The parameters that have a gradient in any file, or all that could, where no file is given.
    graded: BTreeMap<String, Graded>,
}

/// How the gradients of a parameter lie in their files.
struct Graded {
    format: Format,
    /// What is said of the first that lies otherwise.
    other: Option<String>,
}

/// A tensor that is stepped.
pub struct Member {
    pub name: String,
    pub shape: Vec<u64>,
    pub len: u64,
    /// Of the config.
    pub group: usize,
    pub formats: Formats,
}

/// Members by group and formats: each part is a group of the optimizer, which knows one set of formats for a group.
pub fn parts(members: &[Member]) -> impl Iterator<Item = &[Member]> {
    members.chunk_by(|a, b| a.group == b.group && a.formats == b.formats)
}

/// Each part of a group of the config behind its first, with that: as `clip_together` takes them.
pub fn together(members: &[Member]) -> Vec<(usize, usize)> {
    let groups: Vec<usize> = parts(members).map(|part| part[0].group).collect();
    let first = |group: &usize| groups.iter().position(|known| known == group);
    let pairs = groups.iter().enumerate().filter_map(|(number, group)| Some((number, first(group)?)));
    pairs.filter(|(number, first)| number != first).collect()
}

impl Inputs {
    /// Opens every file and checks every header.
    ///
    /// # Errors
    /// With the file, the tensor, and what does not fit.
    pub fn open(params: &Path, grads: &[PathBuf]) -> Result<Self> {
        let params = Archive::open(params)?;
        let mut graded = BTreeMap::new();
        for path in grads {
            // Opened again when its step comes: there may be more files than can be open at once.
            let file = Self::open_grads(&params, path)?;
            for entry in file.entries() {
                note(&mut graded, &file, entry);
            }
        }
        if grads.is_empty() {
            let steppable = params.entries().iter().filter_map(|entry| Some((entry, format_of(entry.dtype)?)));
            graded.extend(steppable.map(|(entry, format)| (entry.name.clone(), Graded { format, other: None })));
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

    /// The format of a parameter, if it can be stepped.
    pub fn format_of(&self, name: &str) -> Option<Format> {
        format_of(self.params.get(name)?.dtype)
    }

    /// The tensors that are stepped, by group and formats. One without elements has nothing to step.
    ///
    /// # Errors
    /// Where the config names another format than a file has.
    pub fn members<R: Rule>(&self, config: &Config<R>) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for entry in self.params.entries().iter().filter(|entry| !entry.is_empty()) {
            if let (Some(graded), Some(params)) = (self.graded.get(&entry.name), format_of(entry.dtype)) {
                let group = config.group_of(&entry.name);
                let formats = self.formats(config, group, entry, (params, graded))?;
                let (name, shape) = (entry.name.clone(), entry.shape.clone());
                members.push(Member { name, shape, len: entry.len(), group, formats });
            }
        }
        members.sort_by_key(|Member { group, formats, .. }| (*group, place(formats.params), place(formats.grads)));
        Ok(members)
    }

    fn formats<R: Rule>(
        &self,
        config: &Config<R>,
        group: usize,
        Entry { name, dtype, .. }: &Entry,
        (params, graded): (Format, &Graded),
    ) -> Result<Formats> {
        let (file, toml) = (self.params.path(), config.path.display());
        let keys = &config.groups[group].format;
        if let Some(asked) = keys.params.filter(|asked| *asked != params) {
            let (group, asked, stored) = (config.group_name(group), asked.storage().word(), dtype_of(asked.storage()));
            bail!(
                "{file}: {name:?} is {dtype}, and {toml} has params = {asked:?} in the [format] of {group}; parameters are \
                 never cast: leave params out to step them as they are, or store them as {stored}"
            );
        }
        if let (Some(other), None) = (&graded.other, keys.grads) {
            bail!("{other}; name one of them in [format], as in grads = \"f32\", and the others are cast to it");
        }
        Ok(keys.formats(params, graded.format))
    }
}

/// Notes how a gradient lies.
fn note(graded: &mut BTreeMap<String, Graded>, file: &Archive, Entry { name, dtype, .. }: &Entry) {
    let Some(format) = format_of(*dtype) else { return };
    let known = graded.entry(name.clone()).or_insert(Graded { format, other: None });
    if known.format != format && known.other.is_none() {
        let before = dtype_of(known.format.storage());
        known.other = Some(format!("{}: gradient {name:?} is {dtype}, in a file before it {before}", file.path()));
    }
}

/// Where a format stands among others; none stand alike.
fn place(format: Format) -> usize {
    format as usize
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
    for (what, dtype) in [("parameter", param.dtype), ("gradient", gradient.dtype)] {
        if format_of(dtype).is_none() {
            bail!(
                "{file}: {what} {name:?} is {dtype}, and only F32, F16 and BF16 can be stepped; leave its gradient out"
            );
        }
    }
    Ok(())
}
