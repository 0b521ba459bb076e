//! What one source said last, and what is new in what it says now.

use crate::endpoint::{EndpointId, EndpointSpec};
use alloc::vec::Vec;

/// One source's whole set, in its own order, with identities, which cost more than a comparison.
#[derive(Debug, Default)]
pub(super) struct Said {
    specs: Vec<EndpointSpec>,
    ids: Vec<EndpointId>,
}

impl Said {
    /// Takes what it says now. Returns all endpoints of which it says something else than before, and perhaps some
    /// more: what lies between the first difference and the last, for most changes are one endpoint in a list.
    pub(super) fn becomes(&mut self, specs: Vec<EndpointSpec>) -> Vec<EndpointId> {
        let same = |(a, b): &(&EndpointSpec, &EndpointSpec)| a == b;
        let head = self.specs.iter().zip(&specs).take_while(same).count();
        let (old, new) = (&self.specs[head..], &specs[head..]);
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        let fresh: Vec<EndpointId> = new[..new.len() - tail].iter().map(EndpointSpec::id).collect();
        let mut concerned = fresh.clone();
        concerned.extend(self.ids.splice(head..head + old.len() - tail, fresh));
        self.specs = specs;
        concerned
    }

    /// Its endpoints.
    pub(super) fn specs(&self) -> impl Iterator<Item = (EndpointId, &EndpointSpec)> {
        self.ids.iter().copied().zip(&self.specs)
    }

    /// All identities, when it is gone.
    pub(super) fn into_ids(self) -> Vec<EndpointId> {
        self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use core::net::SocketAddr;
    use proptest::prelude::*;

    fn spec((port, weight): (u16, u8)) -> EndpointSpec {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        EndpointSpec { weight: f64::from(weight), ..EndpointSpec::at(address) }
    }

    #[test]
    fn one_endpoint_in_a_list_concerns_nobody_else() {
        let list = |ports: &[u16]| ports.iter().map(|&port| spec((port, 1))).collect::<Vec<_>>();
        let mut said = Said::default();
        assert_eq!(said.becomes(list(&[1, 2, 3, 4])).len(), 4);
        assert_eq!(said.becomes(list(&[1, 2, 3, 4])), []);
        assert_eq!(said.becomes(list(&[1, 3, 4])), [spec((2, 1)).id()]);
        assert_eq!(said.becomes(list(&[1, 3, 9, 4])), [spec((9, 1)).id()]);
        // The same again, one more of it, and the order of equals.
        assert_eq!(said.becomes(list(&[1, 3, 9, 9, 4])), [spec((9, 1)).id()]);
    }

    proptest! {
        #[test]
        fn what_differs_is_concerned(lists in prop::collection::vec(
            prop::collection::vec((1u16..6, 0u8..2), 0..8), 1..6)) {
            let (mut said, mut before) = (Said::default(), Vec::new());
            for list in lists {
                let list: Vec<EndpointSpec> = list.into_iter().map(spec).collect();
                let concerned: BTreeSet<EndpointId> = said.becomes(list.clone()).into_iter().collect();
                let of = |list: &[EndpointSpec], id| list.iter().filter(|s| s.id() == id).cloned().collect::<Vec<_>>();
                for id in before.iter().chain(&list).map(EndpointSpec::id) {
                    prop_assert!(concerned.contains(&id) || of(&before, id) == of(&list, id));
                }
                let ids: Vec<EndpointId> = list.iter().map(EndpointSpec::id).collect();
                prop_assert_eq!(said.specs().map(|(id, _)| id).collect::<Vec<_>>(), ids);
                before = list;
            }
        }
    }
}
