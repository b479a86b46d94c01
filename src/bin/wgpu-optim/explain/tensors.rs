//! Each tensor: how it lies, and what it takes.

use serde_json::{Value as Json, json};
use wgpu_optim::format::{Plane, Storage};

use crate::inputs::Member;
use crate::report::size;

/// Columns of a line.
const WIDTH: usize = 80;
const INDENT: &str = "      ";

/// What is kept of a tensor: a name, a format, bytes.
type Part = (&'static str, &'static str, u64);

pub fn to_json(member: &Member, planes: &[Plane]) -> Json {
    let told = |(_, format, bytes): &Part| json!({"format": format, "bytes": bytes});
    let [params, grads, slots @ ..] = &*parts(member, planes) else { return Json::Null };
    let slots: serde_json::Map<String, Json> = slots.iter().map(|slot| (slot.0.to_string(), told(slot))).collect();
    json!({"name": member.name, "params": told(params), "grads": told(grads), "slots": slots})
}

/// A line for the tensor, and below it what is kept of it.
pub fn to_text(member: &Member, planes: &[Plane]) -> String {
    let mut text = format!("    {} {:?}\n", member.name.escape_debug(), member.shape);
    let mut line = INDENT.to_string();
    for (name, format, bytes) in parts(member, planes) {
        let part = format!("{name} {format} {}", size(bytes));
        if line.len() + ", ".len() + part.len() >= WIDTH {
            text += &format!("{line},\n");
            line = INDENT.to_string();
        }
        line += if line == INDENT { "" } else { ", " };
        line += &part;
    }
    text + &line + "\n"
}

fn parts(Member { len, formats, .. }: &Member, planes: &[Plane]) -> Vec<Part> {
    let of = |name, storage: Storage| (name, storage.word(), storage.size_of(*len));
    let slots = planes.iter().map(|plane| of(plane.slot, plane.storage));
    [of("params", formats.params.storage()), of("grads", formats.grads.storage())].into_iter().chain(slots).collect()
}
