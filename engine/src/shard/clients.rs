//! Client connections of a shard: requests in, replies out.

use std::collections::HashMap;

use synod_transport::frame::encode_frame;

use super::group::{Reply, Run};
use super::large::PartReply;
use super::links::Outgoing;
use super::made::GroupReply;
use super::membership::MembershipReply;
use super::points::{PointRead, PointReply};
use super::reads::{ReadReply, ReadRequest};
use super::trim_orders::TrimReply;
use super::{Notice, Shard};
use crate::batch::Entries;
use crate::client::protocol::{ReplyV1, Request, rejected};
use crate::groups::{GroupChange, directory_number};
use crate::large::LargePermit;
use crate::limits::{CLIENT_OUTBOX_BYTES_MAX, CLIENTS_MAX, ENTRY_BYTES_MAX, LARGE_ENTRY_BYTES_MAX, READ_BYTES_MAX};
use crate::outcome::{GroupId, Outcome, ProposeError, Rejection};
use crate::wire::{CLIENT_REPLY, CLIENT_REQUEST};

/// The largest body of a client's frame: a full batch and what the request says of it.
pub(crate) const CLIENT_BODY_BYTES_MAX: u32 = ENTRY_BYTES_MAX as u32 + 4096;

/// A large entry of which no part came for so long is forgotten.
const UPLOAD_NS: u64 = 10_000_000_000;

/// The outboxes of all client connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: HashMap<u64, Outgoing>,
    /// Connections with something new to send.
    pub(crate) ready: Vec<u64>,
    /// Large entries of which the first parts have come in, by connection.
    uploads: HashMap<u64, Upload>,
}

/// Which entry it is that comes in parts: its group, its session, its bytes.
type Uploaded = (GroupId, Option<(u64, u64)>, u32);

/// A large entry of a client of which the first parts have come in.
#[derive(Debug)]
struct Upload {
    entry: Uploaded,
    bytes: Vec<u8>,
    permit: LargePermit,
    heard_ns: u64,
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
        self.uploads.remove(&connection);
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
            Some(Request::AppendPart { group, session, total, offset, bytes }) => {
                self.on_append_part(connection, request, (group, session, total), offset as usize, &bytes);
            }
            // An introduction is no shard's to take.
            Some(decoded)
                if self.shard_for(&decoded) != self.shard.0 || matches!(decoded, Request::Introduce { .. }) =>
            {
                self.notices.push(Notice::Forward(connection, request, decoded));
            }
            Some(decoded) => self.on_request(connection, request, decoded),
            None => {
                self.reply(connection, request, &ReplyV1::Failed { text: "malformed request".into() });
                self.notices.push(Notice::Close(connection));
            }
        }
    }

    /// Proposes a client's entries.
    fn append(
        &mut self,
        connection: u64,
        request: u64,
        group: GroupId,
        session: Option<(u64, u64)>,
        entries: Entries,
        permit: Option<LargePermit>,
    ) {
        let (reply, count) = (Reply::Client(connection, request), entries.len() as u32);
        let run = Run { reply, tag: 0, count, submitted_ns: self.now_ns, handle: None };
        let refused = match self.group_at(group) {
            None => Some(self.not_here(group)),
            Some(at) => self.propose_any(at, entries, session, run, permit).err().map(|(_, rejection)| rejection),
        };
        if let Some(rejection) = refused {
            self.reply_append(connection, request, Err(ProposeError::Rejected(rejection)));
        }
    }

    /// A part of a large entry has come in. What it lacks is told at once; nothing is proposed before it is whole.
    fn on_append_part(&mut self, connection: u64, request: u64, entry: Uploaded, offset: usize, bytes: &[u8]) {
        let (group, session, total) = entry;
        let now_ns = self.now_ns;
        if offset == 0 {
            self.clients.uploads.remove(&connection);
            match self.admit_upload(group, total as usize) {
                Ok(permit) => {
                    let upload = Upload { entry, bytes: Vec::new(), permit, heard_ns: now_ns };
                    self.clients.uploads.insert(connection, upload);
                }
                Err(rejection) => {
                    return self.reply_append(connection, request, Err(ProposeError::Rejected(rejection)));
                }
            }
        }
        let upload = self.clients.uploads.get_mut(&connection);
        let Some(upload) = upload.filter(|upload| upload.entry == entry && upload.bytes.len() == offset) else {
            let text = "a part does not follow the ones before it, or came too late: begin again".into();
            return self.reply(connection, request, &ReplyV1::Failed { text });
        };
        upload.bytes.extend_from_slice(bytes);
        upload.heard_ns = now_ns;
        if upload.bytes.len() < total as usize {
            return self.reply(connection, request, &ReplyV1::Done);
        }
        let Upload { bytes, permit, .. } = self.clients.uploads.remove(&connection).expect("it was just there");
        let entries = Entries { ends: vec![total], bytes };
        if self.placement.shard(group) == self.shard.0 {
            self.append(connection, request, group, session, entries, Some(permit));
        } else {
            // It takes leave anew on its way.
            drop(permit);
            self.notices.push(Notice::Forward(connection, request, Request::Append { group, session, entries }));
        }
    }

    /// Whether a large entry may come in: better to say now that it may not be proposed than when all of it is there.
    fn admit_upload(&mut self, group: GroupId, bytes: usize) -> Result<LargePermit, Rejection> {
        if bytes > LARGE_ENTRY_BYTES_MAX {
            return Err(Rejection::TooLarge);
        }
        if self.placement.shard(group) == self.shard.0 {
            let at = self.group_at(group).ok_or_else(|| self.not_here(group))?;
            self.admit(at, 0, self.now_ns)?;
        }
        self.large.budget.take(bytes)
    }

    /// Large entries that do not go on coming in are forgotten.
    pub(super) fn expire_uploads(&mut self) {
        let now_ns = self.now_ns;
        self.clients.uploads.retain(|_, upload| upload.heard_ns + UPLOAD_NS > now_ns);
    }

    fn on_request(&mut self, connection: u64, request: u64, decoded: Request) {
        match decoded {
            Request::Append { group, session, entries } => {
                self.append(connection, request, group, session, entries, None);
            }
            Request::AppendPart { .. } => unreachable!("parts are gathered where they come in"),
            Request::ReadPart { group, index, part } => {
                self.read_part(group, index, part, PartReply::Client(connection, request));
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
                    None => Some(self.not_here(group)),
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
                self.read(group, ReadRequest { from_index, bytes_max, wait_until_ns, whole: false, reply });
            }
            Request::Membership { group } => {
                let reply = match self.electorate_at(group) {
                    Some(at) => self.membership(at).into(),
                    None => rejected(self.not_here(group)),
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
            Request::PlaceGroup { group, shard, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                let change = GroupChange::Place(group, shard as usize);
                self.change_groups(change, until_ns, GroupReply::Client(connection, request));
            }
            Request::DropGroup { group, wait_ms } => {
                let until_ns = self.now_ns + u64::from(wait_ms) * 1_000_000;
                self.change_groups(GroupChange::Drop(group), until_ns, GroupReply::Client(connection, request));
            }
            Request::Introduce { .. } => unreachable!("it is passed on where it comes in"),
            Request::Introductions { .. } => {
                let reply = self.introductions().into();
                self.reply(connection, request, &reply);
            }
            Request::Groups { .. } => {
                let reply = self.made_groups().into();
                self.reply(connection, request, &reply);
            }
            Request::Info { group } => {
                let directory = directory_number(group).and_then(|number| self.made.directory(number));
                let reply = directory.map_or_else(|| self.info(), |at| self.info_of(&[at]));
                self.reply(connection, request, &reply);
            }
        }
    }

    /// What this shard knows of its groups.
    pub(crate) fn info(&self) -> ReplyV1 {
        let places = (0..self.groups.len() as u32).filter(|at| self.groups[*at as usize].kind.is_visible());
        self.info_of(&places.collect::<Vec<_>>())
    }

    fn info_of(&self, places: &[u32]) -> ReplyV1 {
        let groups = places.iter().map(|at| self.group_info(*at)).collect();
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
