//! Places in a list: dense, and an endpoint keeps its place unless that would leave a hole.

use std::collections::HashMap;

use super::element::Slot;
use crate::service::Backend;

/// Places the wanted endpoints. Those that had a place below the new length keep it; the others, and
/// new ones, fill the holes. So one endpoint less changes two places, one more changes one.
pub(super) fn place(before: &[Option<Backend>], wanted: &[Backend]) -> Vec<Backend> {
    if before.len() == wanted.len() && before.iter().zip(wanted).all(|(b, w)| *b == Some(*w)) {
        return wanted.to_vec();
    }
    let mut free: HashMap<Backend, ()> = wanted.iter().map(|backend| (*backend, ())).collect();
    let mut places: Vec<Option<Backend>> = vec![None; wanted.len()];
    for (place, backend) in places.iter_mut().zip(before) {
        if let Some(backend) = backend
            && free.remove(backend).is_some()
        {
            *place = Some(*backend);
        }
    }
    // In the order in which they are wanted, so that the outcome does not depend on hashing.
    let mut rest = wanted.iter().filter(|backend| free.contains_key(backend));
    places.into_iter().filter_map(|place| place.or_else(|| rest.next().copied())).collect()
}

/// The endpoints of slots, as [`place`] takes them.
pub(super) fn places(slots: &[Slot]) -> Vec<Option<Backend>> {
    slots.iter().map(|slot| Some(slot.backend)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(numbers: &[u8]) -> Vec<Backend> {
        numbers.iter().map(|n| Backend { ip: [10, 0, 0, *n].into(), port: 80 }).collect()
    }

    fn after(before: &[u8], wanted: &[u8]) -> Vec<Backend> {
        let before: Vec<_> = backends(before).into_iter().map(Some).collect();
        place(&before, &backends(wanted))
    }

    #[test]
    fn the_last_fills_the_hole_and_the_rest_stays() {
        assert_eq!(after(&[1, 2, 3, 4], &[1, 3, 4]), backends(&[1, 4, 3]));
        assert_eq!(after(&[1, 4, 3], &[1, 3, 4, 9]), backends(&[1, 4, 3, 9]));
        assert_eq!(after(&[1, 2], &[2, 7]), backends(&[7, 2]));
        assert_eq!(after(&[], &[5, 6]), backends(&[5, 6]));
        assert_eq!(after(&[5, 6], &[]), backends(&[]));
    }

    #[test]
    fn holes_and_doubles_that_were_found_are_mended() {
        let (one, two) = (backends(&[1])[0], backends(&[2])[0]);
        let found = [None, Some(one), Some(one), Some(two)];
        assert_eq!(place(&found, &[one, two]), [two, one]);
    }
}
