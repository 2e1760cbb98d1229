//! Client connections of a shard: requests in, replies out.

use std::collections::HashMap;

use synod_transport::frame::encode_frame;

use super::group::{Reply, Run};
use super::links::Outgoing;
use super::made::GroupReply;
use super::membership::MembershipReply;
use super::points::{PointRead, PointReply};
use super::reads::{ReadReply, ReadRequest};
use super::trim_orders::TrimReply;
use super::{Notice, Shard};
use crate::client::protocol::{ReplyV1, Request, rejected};
use crate::groups::GroupChange;
use crate::limits::{CLIENT_OUTBOX_BYTES_MAX, CLIENTS_MAX, ENTRY_BYTES_MAX, READ_BYTES_MAX};
use crate::outcome::{Outcome, ProposeError, Rejection};
use crate::wire::{CLIENT_REPLY, CLIENT_REQUEST};

/// The largest body of a client's frame: a full batch and what the request says of it.
pub(crate) const CLIENT_BODY_BYTES_MAX: u32 = ENTRY_BYTES_MAX as u32 + 4096;

/// The outboxes of all client connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: HashMap<u64, Outgoing>,
    /// Connections with something new to send.
    pub(crate) ready: Vec<u64>,
}

impl Clients {
    /// Takes a new connection. False when there are too many.
    pub(crate) fn add(&mut self, connection: u64) -> bool {
        if self.connections.len() >= CLIENTS_MAX {
            return false;
        }
        self.connections.insert(connection, Outgoing::new(CLIENT_OUTBOX_BYTES_MAX));
        true
    }

    pub(crate) fn remove(&mut self, connection: u64) -> bool {
        self.connections.remove(&connection).is_some()
    }

    pub(crate) fn outbox(&mut self, connection: u64) -> Option<&mut Outgoing> {
        self.connections.get_mut(&connection)
    }
}

impl Shard {
    /// A whole frame of a client has come in.
    pub(crate) fn on_client_frame(&mut self, connection: u64, kind: u8, request: u64, body: &[u8]) {
        let decoded = if kind == CLIENT_REQUEST { Request::decode(body).ok() } else { None };
        match decoded {
            Some(decoded) if decoded.group() % self.shard.1 as u64 != self.shard.0 as u64 => {
                self.notices.push(Notice::Forward(connection, request, decoded));
            }
            Some(decoded) => self.on_request(connection, request, decoded),
            None => {
                self.reply(connection, request, &ReplyV1::Failed { text: "malformed request".into() });
                self.notices.push(Notice::Close(connection));
            }
        }
    }

    fn on_request(&mut self, connection: u64, request: u64, decoded: Request) {
        match decoded {
            Request::Append { group, session, entries } => {
                let run = Run {
                    reply: Reply::Client(connection, request),
                    tag: 0,
                    count: entries.len() as u32,
                    submitted_ns: self.now_ns,
                    handle: None,
                };
                let refused = match self.group_at(group) {
                    None => Some(Rejection::UnknownGroup),
                    Some(at) => self.propose(at, &entries, session, run).err().map(|(_, rejection)| rejection),
                };
                if let Some(rejection) = refused {
                    self.reply_append(connection, request, Err(ProposeError::Rejected(rejection)));
                }
            }
            Request::OpenSession { .. } | Request::CloseSession { .. } => {
                let (group, ask) = decoded.session_ask().expect("it is one");
                let run = Run {
                    reply: Reply::Client(connection, request),
                    tag: 0,
                    count: 0,
                    submitted_ns: self.now_ns,
                    handle: None,
                };
                let refused = match self.group_at(group) {
                    None => Some(Rejection::UnknownGroup),
                    Some(at) => self.ask(at, ask, run).err().map(|(_, rejection)| rejection),
                };
                if let Some(rejection) = refused {
                    self.reply_append(connection, request, Err(ProposeError::Rejected(rejection)));
                }
            }
            Request::Read { group, from_index, bytes_max, wait_ms } => {
                let wait_until_ns = if wait_ms == 0 { 0 } else { self.now_ns + u64::from(wait_ms) * 1_000_000 };
                let bytes_max = (bytes_max as usize).min(READ_BYTES_MAX);
                let reply = ReadReply::Client(connection, request);
                self.read(group, ReadRequest { from_index, bytes_max, wait_until_ns, reply });
            }
            Request::Membership { group } => {
                let reply = match self.group_at(group) {
                    Some(at) => self.membership(at).into(),
                    None => rejected(Rejection::UnknownGroup),
                };
                self.reply(connection, request, &reply);
            }
            Request::ChangeMembership { group, version, change, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                let reply = MembershipReply::Client(connection, request);
                self.change_membership(group, version, change, until_ns, reply);
            }
            Request::ReadPoint { group, consistency, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                let reply = PointReply::Client(connection, request);
                self.read_point(group, PointRead::new(consistency, until_ns, reply));
            }
            Request::Transfer { group, to, timeout_ms } => {
                self.transfer_for_client(group, to, u64::from(timeout_ms) * 1_000_000, (connection, request));
            }
            Request::Trim { group, before, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                self.trim(group, before, until_ns, TrimReply::Client(connection, request));
            }
            Request::CreateGroup { group, phase_2, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                self.change_groups(
                    GroupChange::Create(group, phase_2),
                    until_ns,
                    GroupReply::Client(connection, request),
                );
            }
            Request::DropGroup { group, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                self.change_groups(GroupChange::Drop(group), until_ns, GroupReply::Client(connection, request));
            }
            Request::Groups { .. } => {
                let reply = self.made_groups().into();
                self.reply(connection, request, &reply);
            }
            Request::Info { .. } => {
                let reply = self.info();
                self.reply(connection, request, &reply);
            }
        }
    }

    /// What this shard knows of its groups.
    pub(crate) fn info(&self) -> ReplyV1 {
        let places = (0..self.groups.len() as u32).filter(|at| self.groups[*at as usize].kind.is_visible());
        let groups = places.map(|at| self.group_info(at)).collect();
        ReplyV1::Info { node: self.node, process: std::process::id(), shards: self.shard.1 as u32, groups }
    }

    pub(crate) fn reply_append(&mut self, connection: u64, request: u64, outcome: Outcome) {
        self.reply(connection, request, &outcome.into());
    }

    /// Queues a reply; a client that does not take its replies is closed.
    pub(crate) fn reply(&mut self, connection: u64, request: u64, reply: &ReplyV1) {
        let body = reply.encode();
        let now_us = self.now_ns / 1000;
        let Some(outbox) = self.clients.outbox(connection) else { return };
        match outbox.push_control(encode_frame(CLIENT_REPLY, request, &body), now_us) {
            Ok(()) => self.clients.ready.push(connection),
            Err(full) => {
                tracing::warn!(connection, %full, "a client does not take its replies");
                self.notices.push(Notice::Close(connection));
            }
        }
    }
}
