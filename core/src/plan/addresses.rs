//! Which address of the new pod takes the place of which of the old one's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::source::Source;
use crate::source::manifest::InterfaceAddress;
use crate::target::TargetNetwork;

/// Old addresses, each with the new one that takes its place, or without one.
pub(super) struct AddressMap {
    new: BTreeMap<IpAddr, Option<IpAddr>>,
    /// What the new network namespace has.
    present: BTreeSet<IpAddr>,
}

/// Addresses that stand for one another belong to the same class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    V4,
    V6,
    V6LinkLocal,
}

fn class(address: &IpAddr) -> Class {
    match address {
        IpAddr::V4(_) => Class::V4,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Class::V6LinkLocal,
        IpAddr::V6(_) => Class::V6,
    }
}

/// An IPv4 address that an IPv6 socket uses is that IPv4 address.
pub(super) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether an address belongs to one pod: not any, not loopback, not many receivers'.
fn belongs_to_a_pod(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

impl AddressMap {
    /// Joins the old addresses with the new ones: by interface and, on it, by order; an interface that the new pod has not got
    /// by order alone. What both have stays.
    pub(super) fn new(source: &Source, network: &TargetNetwork) -> Self {
        let present: BTreeSet<IpAddr> = network.addresses.iter().map(|at| at.address).collect();
        let usable = |all: &[InterfaceAddress]| -> Vec<InterfaceAddress> {
            let all = all.iter().filter(|at| belongs_to_a_pod(&at.address));
            all.cloned().collect()
        };
        let fresh = usable(&network.addresses);
        let recorded = source
            .manifest
            .as_ref()
            .map(|manifest| usable(&manifest.addresses));
        let new = match recorded.filter(|recorded| !recorded.is_empty()) {
            Some(old) => old
                .iter()
                .map(|at| {
                    let stays = present.contains(&at.address).then_some(at.address);
                    (at.address, stays.or_else(|| counterpart(at, &old, &fresh)))
                })
                .collect(),
            None => derived(source, &present, &fresh),
        };
        Self { new, present }
    }

    /// The address to use instead of this one; `None` when the new pod has none for it.
    pub(super) fn map(&self, address: IpAddr) -> Option<IpAddr> {
        let old = plain(address);
        if !belongs_to_a_pod(&old) || self.present.contains(&old) {
            return Some(address);
        }
        // One that the old pod had not got either (bound with IP_FREEBIND or IP_TRANSPARENT) is left alone.
        let Some(new) = self.new.get(&old) else {
            return Some(address);
        };
        match (address, (*new)?) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => Some(IpAddr::V6(v4.to_ipv6_mapped())),
            (_, new) => Some(new),
        }
    }

    /// The same with a port.
    pub(super) fn map_socket(&self, address: SocketAddr) -> Option<SocketAddr> {
        let new = self.map(address.ip())?;
        Some(SocketAddr::new(new, address.port()))
    }

    /// Whether an address was the old pod's.
    pub(super) fn was_the_pods(&self, address: IpAddr) -> bool {
        let address = plain(address);
        address.is_loopback() || self.new.contains_key(&address)
    }

    /// Whether the new network namespace has an address.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let address = plain(address);
        address.is_loopback() || self.present.contains(&address)
    }
}

/// Without a record, an address that sockets are bound to and the new pod has not got was the old pod's. Of several of one
/// class nobody could say which is which.
fn derived(
    source: &Source,
    present: &BTreeSet<IpAddr>,
    fresh: &[InterfaceAddress],
) -> BTreeMap<IpAddr, Option<IpAddr>> {
    let bound: BTreeSet<IpAddr> = source
        .sockets
        .inet
        .iter()
        .map(|socket| plain(socket.local.ip()))
        .filter(|address| belongs_to_a_pod(address) && !present.contains(address))
        .collect();
    let of_class = |wanted| bound.iter().filter(move |at| class(at) == wanted);
    let new = |old| match of_class(class(old)).count() {
        1 => fresh
            .iter()
            .find(|at| class(&at.address) == class(old))
            .map(|at| at.address),
        _ => None,
    };
    bound.iter().map(|old| (*old, new(old))).collect()
}

fn counterpart(
    old: &InterfaceAddress,
    all_old: &[InterfaceAddress],
    all_new: &[InterfaceAddress],
) -> Option<IpAddr> {
    let wanted = class(&old.address);
    let same_class = |at: &&InterfaceAddress| class(&at.address) == wanted;
    let same_interface = |at: &&InterfaceAddress| same_class(at) && at.interface == old.interface;
    let on_it: Vec<_> = all_new.iter().filter(same_interface).collect();
    let (before, after): (Vec<_>, Vec<_>) = if on_it.is_empty() {
        (
            all_old.iter().filter(same_class).collect(),
            all_new.iter().filter(same_class).collect(),
        )
    } else {
        (all_old.iter().filter(same_interface).collect(), on_it)
    };
    let at = before.iter().position(|at| at.address == old.address)?;
    after.get(at).map(|at| at.address)
}
