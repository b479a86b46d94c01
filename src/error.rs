//! Everything that can be refused, with the numbers that disagree.

/// Why a call was refused. A refused call changes nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum Error {
    /// A setting is outside its range, or is missing from a preset that has no default for it.
    #[error("{rule}: {setting} is {found}, expected {expected}")]
    Setting { rule: &'static str, setting: &'static str, found: String, expected: String },

    /// The rule has no setting of this name.
    #[error("{rule}: there is no setting {setting:?}; its settings are {known}")]
    UnknownSetting { rule: &'static str, setting: String, known: String },

    /// An argument of a schedule is outside its range.
    #[error("schedule {kind}: {argument} is {found}, expected {expected}")]
    Schedule { kind: &'static str, argument: &'static str, found: String, expected: String },

    /// `retune` was asked for what would need other state slots or another pipeline.
    #[error(
        "{rule}: {setting} of group {group} cannot change from {from} to {to} between steps: it decides which \
         state is kept; build a new optimizer"
    )]
    Structure { rule: &'static str, setting: &'static str, group: usize, from: String, to: String },

    /// The chain was asked for what would need other state or another bookkeeping.
    #[error("chain: {part} cannot go from {from} to {to} between steps; build a new optimizer")]
    Chain { part: &'static str, from: &'static str, to: &'static str },

    /// Two lengths that must agree do not.
    #[error("{what} of {name:?} has {found} elements, its parameters have {expected}")]
    Length { what: String, name: String, found: u64, expected: u64 },

    /// A slice of numbers lies otherwise than its group says.
    #[error("{what} of {name:?}: a slice in {found} was given, its group has {expected}")]
    Format { what: &'static str, name: String, found: &'static str, expected: &'static str },

    /// A slot would be rounded that the rule, with these settings, cannot take rounded.
    #[error("{rule}: {slot} cannot be kept in {format}: {why}")]
    Rounded { rule: &'static str, slot: &'static str, format: &'static str, why: &'static str },

    /// The scale of a block is no largest magnitude of numbers.
    #[error(
        "the scale of block {block} is {scale:?}, expected a finite number >= 0; what was not finite in one gradient has \
         spread over 256 elements: go on from a file before it, with a scaler, which leaves such steps out"
    )]
    Scale { block: u64, scale: f32 },

    /// A slot is kept in fewer bits than were asked for.
    #[error("{slot} of {name:?} is kept in {format}, not in f32; read it decoded, with read_state")]
    Stored { slot: String, name: String, format: &'static str },

    /// Not one slice for each tensor.
    #[error("{found} slices of {what} were given for {expected} tensors")]
    Tensors { what: &'static str, found: u64, expected: u64 },

    /// A step that takes what was summed up was given gradients besides.
    #[error(
        "{found} gradients were given to a step that takes what was accumulated; give them to `accumulate`, and the \
         step none"
    )]
    Accumulated { found: u64 },

    /// The bytes of a transfer are more or fewer than its range.
    #[error("{found} bytes were given for a range of {expected} bytes")]
    Bytes { found: u64, expected: u64 },

    /// A shape and a length that must agree do not.
    #[error("shape {shape:?} of {name:?} has {product} elements, its range has {len}")]
    Shape { name: String, shape: Vec<u64>, product: String, len: u64 },

    /// A tensor has rows by its shape, and has none.
    #[error("{name:?} has no shape, so it has no rows; give the tensor one with with_shape([rows, …])")]
    NoRows { name: String },

    /// A length that is no whole number of rows.
    #[error("the {len} elements of {name:?} are no rows of {width}")]
    RowWidth { name: String, width: u64, len: u64 },

    /// Rows can be moved, not made longer or shorter.
    #[error("a row of {name:?} would have {found} elements, it has {expected}")]
    RowLength { name: String, found: u64, expected: u64 },

    /// A map of rows is for another number of them.
    #[error("the map of {name:?} is of {found} rows, expected {expected}")]
    Map { name: String, found: u64, expected: u64 },

    /// A row would come from one that is not there.
    #[error("row {row} of the map of {name:?} comes from row {from}, there are {rows}; a fresh row is 4294967295")]
    MapRow { name: String, row: u64, from: u32, rows: u64 },

    /// What a kernel only reads lies in a buffer that it writes.
    #[error("{what} of {name:?} must not lie in the buffer of its {of}, which is written; use another buffer")]
    SameBuffer { what: &'static str, name: String, of: &'static str },

    /// A tensor of no elements.
    #[error("{what} of {name:?}: empty; leave the tensor out")]
    Empty { what: &'static str, name: String },

    /// A buffer was created without a usage that the step needs.
    #[error("{what} of {name:?}: the buffer lacks usage {missing}; create it with that usage")]
    Usage { what: &'static str, name: String, missing: String },

    /// An offset or a size is not a whole number of elements.
    #[error("{what} of {name:?}: offset {offset} and size {size} must be multiples of {multiple} bytes")]
    Misaligned { what: &'static str, name: String, offset: u64, size: u64, multiple: u64 },

    /// A range reaches past the end of its buffer.
    #[error("{what} of {name:?}: the range ends at byte {end}, its buffer at {buffer_size}")]
    OutOfBounds { what: &'static str, name: String, end: u64, buffer_size: u64 },

    /// Parameters are written, so nothing else may lie in their bytes.
    #[error("{first} and {second} overlap: bytes {start}..{end} of one buffer belong to both")]
    Overlap { first: String, second: String, start: u64, end: u64 },

    /// A parameter and its gradient lie in one block of the device's binding alignment.
    #[error(
        "parameters of {name:?} (bytes {params_start}..{params_end}) and their gradient (bytes \
         {grads_start}..{grads_end}) share a block of {alignment} bytes of one buffer, so they cannot be bound \
         apart; move one of them to a multiple of {alignment}"
    )]
    SharedBlock { name: String, params_start: u64, params_end: u64, grads_start: u64, grads_end: u64, alignment: u64 },

    /// Rows are not listed where state is kept in 8 bits: a scale belongs to 256 elements, whatever their rows are.
    #[error(
        "{slot} of {name:?} is kept in q8, where 256 elements share a scale, so that a step of some rows would round others \
         again; have the formats of its group keep it in bf16"
    )]
    SharedScale { slot: &'static str, name: String },

    /// Rows are not moved where blocks of 8 bits belong to two of them.
    #[error(
        "rows of {name:?} have {width} elements, which are no whole blocks of 256, and its {slot} is kept in q8, by such \
         blocks; have the formats of its group keep it in bf16"
    )]
    RowBlocks { slot: &'static str, name: String, width: u64 },

    /// Rows that came or went would have state kept in another format.
    #[error(
        "{slot} of {name:?} would go from {from} to {to}: it would have {len} elements, and q8_min is {q8_min}; have the \
         formats of its group keep it in bf16"
    )]
    RowFormat { slot: &'static str, name: String, from: &'static str, to: &'static str, len: u64, q8_min: u64 },

    /// More than can be addressed.
    #[error("{what} of {name:?}: {found} elements, at most {limit}")]
    TooLarge { what: &'static str, name: String, found: u64, limit: u64 },

    /// The device was opened with a limit that is too low.
    #[error("the device's limit {limit} is {available}, at least {needed} is needed")]
    Limits { limit: &'static str, needed: u64, available: u64 },

    /// Two tensors of one optimizer carry one name.
    #[error("two tensors are named {name:?}; a name is a key of the state and must be unique")]
    DuplicateName { name: String },

    /// No tensor has this name.
    #[error("no tensor is named {name:?}{}", hint(.nearest))]
    UnknownName { name: String, nearest: Option<String> },

    /// The tensor keeps no such state.
    #[error("{name:?} keeps no {slot:?}; its state is {known}")]
    UnknownSlot { name: String, slot: String, known: String },

    /// No group has this index.
    #[error("there is no group {group}; the optimizer has {groups}")]
    UnknownGroup { group: usize, groups: usize },

    /// The device could not give the memory.
    #[error("out of memory while {doing}: {message}")]
    OutOfMemory { doing: String, message: String },

    /// The device is gone; buffers on it are lost.
    #[error("the device was lost while {doing}: {message}")]
    DeviceLost { doing: String, message: String },

    /// A buffer could not be read back.
    #[error("readback failed while {doing}: {message}")]
    Readback { doing: String, message: String },

    /// The driver's compiler takes Kahan's compensation for nothing.
    #[error(
        "after a step of 1e-4 a parameter of 1 is {left} with {kept} kept beside it, together {expected} was expected: this \
         device loses what rounding = \"kahan\" keeps; use \"stochastic\", or a master"
    )]
    Compensation { left: f32, kept: f32, expected: f32 },

    /// wgpu refused something that was not foreseen here.
    #[error("wgpu refused {doing}: {message}")]
    Refused { doing: String, message: String },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; the nearest is {name:?}"),
        None => String::new(),
    }
}
