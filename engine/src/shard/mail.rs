//! What other threads ask of a shard.

use super::Shard;
use super::group::{Reply, Run};
use super::large::PartReply;
use super::points::{PointRead, PointReply};
use super::producers::LocalShard;
use super::reads::{ReadReply, ReadRequest};
use crate::mailbox::Mail;
use crate::outcome::{ProposeError, Rejection};

impl Shard {
    /// Takes mail that only the shard is concerned with.
    ///
    /// # Panics
    /// At mail that the driver takes.
    pub(crate) fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Propose { group, entries, session, handle, submitted_ns, permit, reply } => {
                let count = entries.len() as u32;
                let number = handle.map(|(number, _)| number);
                let run = Run { reply: Reply::Callback(reply), tag: 0, count, submitted_ns, handle: number };
                let refused = match self.group_at(group) {
                    None => Some((run, self.not_here(group))),
                    Some(at) => match handle {
                        Some((handle, epoch)) if !self.handle_is_open(handle, at, epoch) => {
                            Some((run, Rejection::HandleClosed))
                        }
                        _ => {
                            let refused = self.propose_any(at, entries, session, run, permit).err();
                            if let (Some(_), Some((handle, _))) = (&refused, handle) {
                                self.close_handle(handle);
                            }
                            refused
                        }
                    },
                };
                if let Some((run, rejection)) = refused
                    && let Reply::Callback(reply) = run.reply
                {
                    reply(Err(ProposeError::Rejected(rejection)));
                }
            }
            Mail::Session { group, ask, submitted_ns, reply } => {
                let run = Run { reply: Reply::Callback(reply), tag: 0, count: 0, submitted_ns, handle: None };
                self.ask_by_mail(group, ask, run);
            }
            Mail::Read { group, from_index, bytes_max, wait_ms, whole, reply } => {
                let wait_until_ns = if wait_ms == 0 { 0 } else { self.now_ns + wait_ms * 1_000_000 };
                let reply = ReadReply::Callback(reply);
                self.read(group, ReadRequest { from_index, bytes_max, wait_until_ns, whole, reply });
            }
            Mail::ReadPart { group, index, part, reply } => {
                self.read_part(group, index, part, PartReply::Callback(reply));
            }
            Mail::ReadPoint { group, consistency, wait_ns, reply } => {
                let read =
                    PointRead::new(consistency, self.now_ns.saturating_add(wait_ns), PointReply::Callback(reply));
                self.read_point(group, read);
            }
            Mail::Transfer { group, to, timeout_ns, reply } => self.transfer(group, to, timeout_ns, reply),
            Mail::Resign { group, reply } => reply(self.resign(group)),
            Mail::Info { group, reply } => reply(self.electorate_at(group).map(|at| self.group_info(at))),
            Mail::InfoAll { reply } => reply(self.info()),
            Mail::Epoch { group, reply } => reply(self.group_at(group).and_then(|at| self.epoch_of(at))),
            Mail::Membership { group, reply } => reply(self.electorate_at(group).map(|at| self.membership(at))),
            Mail::ChangeMembership { group, version, change, wait_ms, reply } => {
                self.change_membership(group, version, change, self.now_ns + wait_ms * 1_000_000, reply);
            }
            Mail::ChangeGroups { change, wait_ms, reply } => {
                self.change_groups(change, self.now_ns.saturating_add(wait_ms.saturating_mul(1_000_000)), reply);
            }
            Mail::Groups { reply } => reply(self.made_groups()),
            Mail::Introduced(list) => self.introduce(list),
            Mail::Introductions { reply } => reply(self.introductions().to_vec()),
            Mail::Store(done) => self.on_store(done),
            Mail::Checkpoint { group, reply } => self.request_checkpoint(group, reply),
            Mail::Pin { group, name, index, reply } => reply(self.pin(group, name, index)),
            Mail::Trim { group, before, wait_ns, reply } => {
                self.trim(group, before, self.now_ns.saturating_add(wait_ns), reply);
            }
            Mail::PauseTrimming { group, paused, reply } => reply(self.pause_trimming(group, paused)),
            Mail::Genesis(shard, genesis) => self.found(shard, &genesis),
            Mail::Pass(pass) => self.on_pass(pass),
            Mail::Wake => self.producers.due = true,
            Mail::Run(run) => run(&mut LocalShard { shard: self, producer: None }),
            Mail::Reply { connection, request, reply } => self.reply(connection, request, &reply),
            Mail::Peer { .. } | Mail::Client { .. } | Mail::Introduce { .. } | Mail::Tick | Mail::Stop => {
                unreachable!("the driver takes these")
            }
        }
    }
}
