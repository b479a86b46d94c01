//! Why a checkpoint is refused, with everything that disagrees.

use std::fmt;

use crate::{output, safetensors};

/// Why a checkpoint was not written or not read. A call that fails has changed neither the optimizer nor a file, but
/// for what the variants say.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum Error {
    /// The file cannot be read, or is no sound safetensors file. Where it could not be read to its end although that
    /// had just been done (a disk that fails, a file that somebody changes in place), part of the state has been
    /// loaded.
    #[error(transparent)]
    File(#[from] safetensors::Error),

    /// The file cannot be written; what was in its place is there as it was.
    #[error(transparent)]
    Output(#[from] output::Error),

    /// A sound safetensors file that holds something else: weights alone, or another program's state.
    #[error("{path}: this is no checkpoint: {message}")]
    Foreign { path: String, message: String },

    /// A checkpoint that contradicts itself.
    #[error("{path}: {message}")]
    Unsound { path: String, message: String },

    /// Bytes are not those that were written.
    #[error("{path}: {what} is damaged: its crc32 is {found:08x}, and {expected:08x} was written")]
    Damaged { path: String, what: String, expected: u32, found: u32 },

    /// A checkpoint of something else than this optimizer; everything in which they disagree.
    #[error("{path}: {}", listed(.disagreements))]
    Mismatch { path: String, disagreements: Vec<Disagreement> },

    /// PyTorch has nothing that this could be written as.
    #[error("{path}: {message}")]
    NoCounterpart { path: String, message: String },

    /// Something that a file could not give back, as a slot with a point in its name.
    #[error("{path}: cannot hold {what}")]
    Unstorable { path: String, what: String },

    /// The optimizer or its device refuses. Where the device was lost on the way, so is its state.
    #[error(transparent)]
    Optimizer(#[from] crate::Error),
}

/// One thing in which a file and an optimizer disagree.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum Disagreement {
    /// Another rule.
    Rule { file: String, optimizer: &'static str },
    /// Another number of groups.
    Groups { file: usize, optimizer: usize },
    /// Another number of tensors in a group, where only their order says which is which.
    Members { group: usize, file: usize, optimizer: usize },
    /// A setting has another value.
    Setting { group: usize, setting: &'static str, file: String, optimizer: String },
    /// A group follows another schedule; `none` where it follows none.
    Schedule { group: usize, file: String, optimizer: String },
    /// A setting of the chain has another value, or a part of it is on in one of the two.
    Chain { setting: String, file: String, optimizer: String },
    /// A count for which the device has no room.
    Count { what: String, file: u64, most: u64 },
    /// The file has nothing of a tensor.
    MissingTensor { name: String, len: u64 },
    /// The optimizer has no tensor of this name.
    UnexpectedTensor { name: String, nearest: Option<String> },
    /// A tensor is in another group.
    Group { name: String, file: usize, optimizer: usize },
    /// A tensor has another number of elements.
    Length { name: String, file: u64, optimizer: u64 },
    /// A tensor keeps other slots.
    Slots { name: String, file: Vec<String>, optimizer: Vec<&'static str> },
    /// A format of a group is another one. `load` never casts, nor does it change formats.
    Format { group: usize, setting: String, file: String, optimizer: String },
    /// A slot of a tensor, or `params`, is in another format.
    Stored { name: String, what: String, file: &'static str, optimizer: &'static str },
    /// The parameters of a tensor were asked for.
    MissingParams { name: String },
    /// A section was asked for that the file does not have.
    MissingExtra { name: String },
    /// The file has a section that was not asked for.
    UnexpectedExtra { name: String },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { file, optimizer } => write!(f, "it is of rule {file:?}, the optimizer is of {optimizer:?}"),
            Self::Groups { file, optimizer } => write!(f, "it has {file} groups, the optimizer has {optimizer}"),
            Self::Members { group, file, optimizer } => {
                write!(f, "its group {group} has {file} tensors, the optimizer's has {optimizer}")
            }
            Self::Setting { group, setting, file, optimizer } => {
                write!(f, "{setting} of group {group} is {file} in it and {optimizer} in the optimizer")
            }
            Self::Schedule { group, file, optimizer } => {
                write!(f, "the schedule of group {group} is {file} in it and {optimizer} in the optimizer")
            }
            Self::Chain { setting, file, optimizer } => {
                write!(f, "{setting} of the chain is {file} in it and {optimizer} in the optimizer")
            }
            Self::Count { what, file, most } => {
                write!(f, "{what} are {file} in it, the optimizer's device counts to {most}")
            }
            Self::MissingTensor { name, len } => write!(f, "it has no {name:?}, which has {len} elements"),
            Self::UnexpectedTensor { name, nearest: None } => write!(f, "the optimizer has no {name:?}"),
            Self::UnexpectedTensor { name, nearest: Some(nearest) } => {
                write!(f, "the optimizer has no {name:?}; the nearest is {nearest:?}")
            }
            Self::Group { name, file, optimizer } => {
                write!(f, "{name:?} is in group {file} of it and in group {optimizer} of the optimizer")
            }
            Self::Length { name, file, optimizer } => {
                write!(f, "{name:?} has {file} elements in it and {optimizer} in the optimizer")
            }
            Self::Slots { name, file, optimizer } => {
                write!(f, "it has {} of {name:?}, which keeps {}", names(file), names(optimizer))
            }
            Self::Format { group, setting, file, optimizer } => {
                write!(f, "the format of group {group}: {setting} is {file} in it and {optimizer} in the optimizer")
            }
            Self::Stored { name, what, file, optimizer } => {
                write!(
                    f,
                    "{what} of {name:?} is {file} in it and {optimizer} in the optimizer; \
                     load_partial casts what it is told to"
                )
            }
            Self::MissingParams { name } => write!(f, "it has no parameters of {name:?}"),
            Self::MissingExtra { name } => write!(f, "it has no section {name:?}"),
            Self::UnexpectedExtra { name } => write!(f, "its section {name:?} was not asked for"),
        }
    }
}

fn names<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => "no slot".into(),
        _ => names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    }
}

/// Disagreements that a message tells; the error holds all.
const LISTED: usize = 12;

fn listed(disagreements: &[Disagreement]) -> String {
    if let [one] = disagreements {
        return format!("it does not fit the optimizer: {one}");
    }
    let mut text = "it does not fit the optimizer:".to_string();
    for disagreement in disagreements.iter().take(LISTED) {
        text += &format!("\n  {disagreement}");
    }
    match disagreements.len().saturating_sub(LISTED) {
        0 => text,
        rest => text + &format!("\n  and {rest} more"),
    }
}
