//! The arenas of a plan: tensors of one pair of formats lie in one.

use std::collections::HashSet;

use crate::Error;
use crate::format::{Format, Formats};
use crate::plan::{ArenaLayout, Limits, Place, Span, arena_of};

/// Where parameters and gradients lie.
#[derive(Default)]
pub(super) struct Arenas {
    /// Bytes of each page of parameters, and of gradients.
    pub params: Vec<u64>,
    pub grads: Vec<u64>,
    /// For each tensor.
    pub places: Vec<(Place, Place)>,
}

impl Arenas {
    /// Lays out tensors, given with their formats, in this order in each arena.
    ///
    /// # Errors
    /// As [`arena_of`].
    pub fn lay(members: &[(&Formats, &str, u64)], limits: &Limits) -> Result<Self, Error> {
        let mut names = HashSet::new();
        if let Some((_, name, _)) = members.iter().find(|(_, name, _)| !names.insert(*name)) {
            return Err(Error::DuplicateName { name: name.to_string() });
        }
        let mut pairs: Vec<(Format, Format)> = members.iter().map(|(formats, ..)| pair(formats)).collect();
        let mut seen = HashSet::new();
        pairs.retain(|pair| seen.insert(*pair));
        let (mut arenas, mut places) = (Self::default(), vec![None; members.len()]);
        for own in pairs {
            let numbers: Vec<usize> = (0..members.len()).filter(|&i| pair(members[i].0) == own).collect();
            let named: Vec<(&str, u64)> = numbers.iter().map(|&i| (members[i].1, members[i].2)).collect();
            let layouts = arena_of(&named, [own.0.size(), own.1.size()], limits)?;
            for (place, &i) in numbers.iter().enumerate() {
                places[i] = Some(arenas.places_in(&layouts, own, place));
            }
            arenas.params.extend(&layouts[0].pages);
            arenas.grads.extend(&layouts[1].pages);
        }
        arenas.places = places.into_iter().flatten().collect();
        Ok(arenas)
    }

    /// The places of a tensor of an arena whose pages come behind those that are there: a page is a buffer of
    /// parameters and one of gradients.
    fn places_in(&self, layouts: &[ArenaLayout; 2], of: (Format, Format), tensor: usize) -> (Place, Place) {
        let place = |role: usize, format: Format| {
            let (span, room) = (layouts[role].spans[tensor], layouts[role].rooms[tensor]);
            let buffer = (self.params.len() + span.buffer) * 2 + role;
            Place { span: Span { buffer, ..span }, room, element: format.size() }
        };
        (place(0, of.0), place(1, of.1))
    }
}

fn pair(formats: &Formats) -> (Format, Format) {
    (formats.params, formats.grads)
}
