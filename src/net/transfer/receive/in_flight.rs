//! The parts of one staged file that its store writes at once: they begin in order and end in any,
//! and the file is written as far as all of them have ended.

use crate::chunk::Extent;
use crate::store::Checkpoint;
use std::collections::VecDeque;

/// A part that has begun.
struct Begun {
    number: u64,
    /// The file behind it.
    point: Checkpoint,
    has_ended: bool,
}

/// The parts that have begun and are not all written.
#[derive(Default)]
pub(super) struct InFlight {
    parts: VecDeque<Begun>,
    next: u64,
}

/// A part on its way, for the job that writes it.
pub(super) struct FlyingPart {
    /// Which one.
    pub(super) number: u64,
    /// What the sender learns of.
    pub(super) extents: Vec<Extent>,
}

impl InFlight {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    /// True if none is.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// A part begins; `point` is the file behind it.
    pub(super) fn begin(&mut self, point: Checkpoint, extents: Vec<Extent>) -> FlyingPart {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        self.parts.push_back(Begun {
            number,
            point,
            has_ended: false,
        });
        FlyingPart { number, extents }
    }

    /// A part was written. Returns the point up to which all of them are, if that has changed.
    pub(super) fn ended(&mut self, number: u64) -> Option<Checkpoint> {
        for part in self.parts.iter_mut().filter(|part| part.number == number) {
            part.has_ended = true;
        }
        let mut reached = None;
        while self.parts.front().is_some_and(|first| first.has_ended) {
            reached = self.parts.pop_front().map(|first| first.point);
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_as_far_as_all_parts_have_ended() {
        let at = |offset| Checkpoint {
            offset,
            digests: Vec::new(),
        };
        let mut parts = InFlight::default();
        let numbers: Vec<u64> =
            (1..=3).map(|offset| parts.begin(at(offset), Vec::new()).number).collect();
        assert_eq!(parts.ended(numbers[1]), None);
        assert_eq!(parts.ended(numbers[0]), Some(at(2)));
        assert_eq!((parts.count(), parts.is_empty()), (1, false));
        assert_eq!(parts.ended(numbers[2]), Some(at(3)));
        assert!(parts.is_empty());
    }
}
