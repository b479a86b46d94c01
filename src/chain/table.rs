//! A clip as files have it: what it looks at is the key of its maximum.

use super::{Clip, ClipForm, Norm, Over};

/// `global_norm = 1.0`, or another one of the four, and how the norm is taken.
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClipTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    global_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    norm: Option<Norm>,
    form: Option<ClipForm>,
}

impl TryFrom<ClipTable> for Clip {
    type Error = String;

    fn try_from(table: ClipTable) -> Result<Self, String> {
        let ClipTable { global_norm, group_norm, tensor_norm, value, norm, form } = table;
        let group = |max| Clip { over: Over::Group, ..Clip::global_norm(max) };
        let given = [
            global_norm.map(Clip::global_norm),
            group_norm.map(group),
            tensor_norm.map(Clip::tensor_norm),
            value.map(Clip::value),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.count()) {
            (Some(clip), 0) => Ok(Clip { norm: norm.unwrap_or(clip.norm), form: form.unwrap_or(clip.form), ..clip }),
            (first, others) => {
                let found = usize::from(first.is_some()) + others;
                Err(format!("{found} of global_norm, group_norm, tensor_norm and value are given, expected one"))
            }
        }
    }
}

impl From<Clip> for ClipTable {
    fn from(Clip { max, over, norm, form }: Clip) -> Self {
        let mut table = Self { norm: Some(norm), form: Some(form), ..Self::default() };
        *match over {
            Over::All => &mut table.global_norm,
            Over::Group => &mut table.group_norm,
            Over::Tensor => &mut table.tensor_norm,
            Over::Value => &mut table.value,
        } = Some(max);
        table
    }
}
