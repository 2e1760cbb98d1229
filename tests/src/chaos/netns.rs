//! Network namespaces: one for each node, and a hub with a bridge, where the clients are.
//!
//! Invariants: no packet leaves the namespaces that were made here; names bear this process's number, so that what a
//! killed run left behind is found and removed; all goes with the value.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use synod::NodeId;

use super::room::call;
use super::{NODES, Trouble};

const PREFIX: &str = "synod-chaos-";
const PORT: u16 = 7400;

/// The namespaces of a run. The thread that made them is in the hub, and so are the threads that it starts.
pub(super) struct Namespaces {
    names: Vec<String>,
    /// Where this thread came from.
    home: File,
}

impl Namespaces {
    /// Makes them, and enters the hub.
    pub(super) fn make() -> Result<Self, Trouble> {
        remove_stale()?;
        let home = Path::new("/proc/thread-self/ns/net");
        let home = File::open(home).map_err(|error| Trouble::Io { what: home.display().to_string(), error })?;
        let mut made = Self { names: Vec::new(), home };
        for place in 0..=NODES {
            let name = format!("{PREFIX}{}-{place}", std::process::id());
            call(&["ip", "netns", "add", &name], "")?;
            made.names.push(name);
        }
        made.wire()?;
        let hub = Path::new("/var/run/netns").join(&made.names[0]);
        let entered = File::open(&hub)
            .and_then(|hub| Ok(move_into_link_name_space(hub.as_fd(), Some(LinkNameSpaceType::Network))?));
        entered.map_err(|error| Trouble::Io { what: format!("cannot enter {}", hub.display()), error })?;
        Ok(made)
    }

    /// Where a node listens.
    pub(super) fn address(node: NodeId) -> SocketAddr {
        SocketAddr::from(([10, 231, 77, node as u8], PORT))
    }

    /// The words before a command that run it in a node's namespace.
    pub(super) fn enter_words(&self, node: NodeId) -> Vec<String> {
        ["ip", "netns", "exec", &self.names[node as usize]].map(String::from).to_vec()
    }

    /// From now on a node drops what matches these rules of nftables, and nothing else.
    pub(super) fn drop_at(&self, node: NodeId, rules: &[String]) -> Result<(), Trouble> {
        let rules: String = rules.iter().map(|rule| format!("    {rule} counter drop\n")).collect();
        let hook = "type filter hook input priority 0; policy accept;";
        let text = format!("flush ruleset\ntable inet chaos {{\n  chain input {{\n    {hook}\n{rules}  }}\n}}\n");
        call(&["ip", "netns", "exec", &self.names[node as usize], "nft", "-f", "-"], &text)?;
        Ok(())
    }

    /// How many packets a node has dropped by its present rules.
    pub(super) fn dropped_at(&self, node: NodeId) -> Result<u64, Trouble> {
        let rules = call(&["ip", "netns", "exec", &self.names[node as usize], "nft", "list", "ruleset"], "")?;
        let counts = rules.split("counter packets ").skip(1);
        Ok(counts.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum())
    }

    fn wire(&self) -> Result<(), Trouble> {
        let hub = &self.names[0];
        call(&["ip", "-n", hub, "link", "set", "lo", "up"], "")?;
        call(&["ip", "-n", hub, "link", "add", "hub", "type", "bridge"], "")?;
        call(&["ip", "-n", hub, "address", "add", "10.231.77.254/24", "dev", "hub"], "")?;
        call(&["ip", "-n", hub, "link", "set", "hub", "up"], "")?;
        for node in 1..=NODES {
            let (there, port) = (&self.names[node as usize], format!("to-{node}"));
            let address = format!("{}/24", Self::address(node).ip());
            let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", there];
            call(&[&["ip", "-n", hub], &pair[..]].concat(), "")?;
            call(&["ip", "-n", hub, "link", "set", &port, "master", "hub", "up"], "")?;
            call(&["ip", "-n", there, "link", "set", "lo", "up"], "")?;
            call(&["ip", "-n", there, "address", "add", &address, "dev", "eth0"], "")?;
            call(&["ip", "-n", there, "link", "set", "eth0", "up"], "")?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network)) {
            eprintln!("chaos: cannot leave the namespace of this run: {error}");
        }
        for name in &self.names {
            if let Err(trouble) = call(&["ip", "netns", "delete", name], "") {
                eprintln!("chaos: {trouble}");
            }
        }
    }
}

/// Removes what runs left behind that were killed.
fn remove_stale() -> Result<(), Trouble> {
    let list = call(&["ip", "netns", "list"], "")?;
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            call(&["ip", "netns", "delete", name], "")?;
        }
    }
    Ok(())
}
