//! Which alerts are told together: members of a family that moved, and dense shifts.
//!
//! A topic that fades takes its 32 concepts with it, a retrained model moves hundreds. Every stream has its
//! own alert on the record, with its own evidence; people are told once: an alert that is part of a larger
//! one names it, and whoever tells people leaves the parts out.

use crate::drift::report::Direction;
use crate::drift::stream::StreamId;
use crate::sae::latent::LatentId;

/// Judged windows within which alerts count as one shift.
pub const TOGETHER_WINDOWS: i64 = 24;
/// Alerts of one segment within these from which they are one dense shift. Fewer: five tickets a day are
/// read one by one. More: a retrained model would write that many tickets before it is told as one.
pub const DENSE: usize = 5;
/// Other streams named in an alert.
pub const MAX_MOVED_WITH: usize = 8;
/// Evidence in nats from which another stream counts as moving too.
pub const MOVED_NATS: f64 = 3.0;

/// What a part's alert names as the whole: every alert of a dense shift.
pub const DENSE_SHIFT: &str = "dense";

/// An alert as grouping sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Opened<'a> {
    /// Stream.
    pub stream: StreamId,
    /// Direction.
    pub direction: Direction,
    /// Start of the window that opened it.
    pub start_ms: i64,
    /// What it is part of.
    pub part_of: Option<&'a str>,
}

/// What each newly opened alert is part of, in order; `held`: the others of the segment that are in ALERT.
///
/// | the stream                                                        | part of      |
/// |-------------------------------------------------------------------|--------------|
/// | a latent whose family is in ALERT in the same direction           | `family:N`   |
/// | a latent or family that makes 5 or more within 24 windows         | `dense`      |
/// | any other                                                         | nothing      |
#[must_use]
pub fn parts_of(new: &[Opened<'_>], held: &[Opened<'_>], families: &[Vec<LatentId>], window_ms: i64) -> Vec<Option<String>> {
    let family_of = |opened: &Opened<'_>| {
        let StreamId::Latent(latent) = opened.stream else { return None };
        new.iter().chain(held).find_map(|other| match other.stream {
            StreamId::Family(f) if other.direction == opened.direction => {
                let members = usize::try_from(f).ok().and_then(|f| families.get(f))?;
                members.contains(&latent).then(|| other.stream.to_string())
            }
            _ => None,
        })
    };
    let is_concept = |opened: &Opened<'_>| matches!(opened.stream, StreamId::Latent(_) | StreamId::Family(_));
    let of_families: Vec<Option<String>> = new.iter().map(family_of).collect();
    let newest = new.iter().map(|opened| opened.start_ms).max().unwrap_or(0);
    let lately = |opened: &&Opened<'_>| newest.saturating_sub(opened.start_ms) < TOGETHER_WINDOWS.saturating_mul(window_ms);
    let in_family = |part: Option<&str>| part.is_some_and(|part| part != DENSE_SHIFT);
    let n_held = held.iter().filter(lately).filter(|opened| is_concept(opened) && !in_family(opened.part_of)).count();
    let n_new = new.iter().zip(&of_families).filter(|(opened, family)| is_concept(opened) && family.is_none()).count();
    let is_dense = n_held + n_new >= DENSE;
    new.iter()
        .zip(of_families)
        .map(|(opened, family)| family.or_else(|| (is_dense && is_concept(opened)).then(|| DENSE_SHIFT.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(stream: StreamId, start_ms: i64) -> Opened<'static> {
        Opened { stream, direction: Direction::Down, start_ms, part_of: None }
    }

    fn latent(j: u32) -> StreamId {
        StreamId::Latent(LatentId(j))
    }

    #[test]
    fn members_are_told_with_their_family() {
        let families = vec![vec![LatentId(3), LatentId(4)]];
        let new = [opened(StreamId::Family(0), 0), opened(latent(3), 0), opened(latent(9), 0)];
        assert_eq!(parts_of(&new, &[], &families, 1), [None, Some("family:0".to_owned()), None]);
        let later = [opened(latent(4), 50)];
        assert_eq!(parts_of(&later, &new[..1], &families, 1), [Some("family:0".to_owned())], "the family is still in alert");
        let other_way = [Opened { direction: Direction::Up, ..later[0] }];
        assert_eq!(parts_of(&other_way, &new[..1], &families, 1), [None]);
    }

    #[test]
    fn many_within_a_day_are_one_shift() {
        let new: Vec<_> = (0..200).map(|j| opened(latent(j), 7)).collect();
        assert!(parts_of(&new, &[], &[], 1).iter().all(|part| part.as_deref() == Some(DENSE_SHIFT)));
        assert_eq!(parts_of(&new[..4], &[], &[], 1), vec![None; 4]);
        assert_eq!(parts_of(&[opened(latent(201), 20)], &new[..4], &[], 1), [Some(DENSE_SHIFT.to_owned())]);
        assert_eq!(parts_of(&[opened(latent(201), 40)], &new[..4], &[], 1), [None], "the others are old");
    }

    #[test]
    fn pseudo_streams_are_told_by_themselves() {
        let mut new: Vec<_> = (0..9).map(|j| opened(latent(j), 0)).collect();
        new.push(opened(StreamId::ResidualOutlier, 0));
        assert_eq!(parts_of(&new, &[], &[], 1).pop(), Some(None));
    }
}
