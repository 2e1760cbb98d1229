//! How connections come up, carry bytes and end, as their ends see it.

use synod::simulation::SimPeer;

use super::network::ConnId;
use super::plan::{MS, around};
use super::world::{Event, Node, World};

impl World {
    pub(super) fn redial(&mut self, link: usize) {
        if !std::mem::replace(&mut self.network.links[link].dialing, true) {
            let after = MS + around(&mut self.dice, 10 * MS);
            self.after(after, Event::Dial { link });
        }
    }

    pub(super) fn dial(&mut self, link: usize) {
        let nodes = self.network.links[link].nodes;
        let [low, high] = nodes;
        self.network.links[link].dialing = false;
        if self.nodes[high].process.is_none() || self.network.links[link].believes[1].is_some() {
            return;
        }
        let passes = self.network.passes(low, high) && self.network.passes(high, low);
        let reachable = passes && self.know_each_other(nodes);
        if !reachable || self.nodes[low].process.is_none() || self.nodes[low].paused || self.nodes[high].paused {
            self.network.links[link].dialing = true;
            let after = around(&mut self.dice, 50 * MS);
            return self.after(after, Event::Dial { link });
        }
        self.network.links[link].dialing = true;
        let conn = self.network.connect(link);
        let lives = nodes.map(|node| self.nodes[node].life);
        let after = around(&mut self.dice, self.plan.delay_ns);
        self.after(after, Event::Accept { link, conn, lives });
    }

    /// What a node says to another in a handshake.
    fn hello(&self, from: usize, to: usize, shard: usize) -> SimPeer {
        let Node { boot, replicas, .. } = &self.nodes[from];
        let process = self.nodes[from].process.as_ref();
        let seen = process.map_or(0, |p| p.shards[shard].seen(to as u64 + 1, self.nodes[to].replicas[shard]));
        SimPeer { boot: *boot, replica: replicas[shard], seen }
    }

    pub(super) fn accept(&mut self, link: usize, conn: ConnId, lives: [u64; 2]) {
        let nodes = self.network.links[link].nodes;
        if self.nodes[nodes[0]].life == lives[0] {
            let (node, shard) = (nodes[0], self.network.links[link].shard);
            let (peer, hello) = (nodes[1] as u64 + 1, self.hello(nodes[1], node, shard));
            if let Some(old) = self.network.links[link].believes[0].replace(conn) {
                self.mark("connection replaced");
                let after = around(&mut self.dice, self.plan.delay_ns);
                self.after(after, Event::Closed { conn: old, end: 0 });
                self.network.forget_dead(old);
            }
            self.with_shard(node, shard, |sim| sim.peer_connected(peer, conn, hello));
        }
        let after = around(&mut self.dice, self.plan.delay_ns);
        if let Some(state) = self.network.conns.get_mut(&conn) {
            // Nothing overtakes the answer.
            state.directions[0].last_ns = self.now_ns + after;
        }
        self.after(after, Event::Connected { link, conn, lives });
    }

    pub(super) fn connected(&mut self, link: usize, conn: ConnId, lives: [u64; 2]) {
        let nodes = self.network.links[link].nodes;
        if self.nodes[nodes[1]].life != lives[1] {
            return self.network.forget_dead(conn);
        }
        self.network.links[link].dialing = false;
        let accepted = self.network.links[link].believes[0] == Some(conn);
        if !accepted || !self.network.passes(nodes[0], nodes[1]) {
            // The answer is lost: the other end believes in a connection that nobody uses.
            self.network.forget_dead(conn);
            return self.redial(link);
        }
        let (node, shard) = (nodes[1], self.network.links[link].shard);
        let (peer, hello) = (nodes[0] as u64 + 1, self.hello(nodes[0], node, shard));
        self.network.links[link].believes[1] = Some(conn);
        self.with_shard(node, shard, |sim| sim.peer_connected(peer, conn, hello));
    }

    pub(super) fn send_all(&mut self, node: usize, shard: usize) {
        self.send_datagrams(node, shard);
        let ends = self.network.ends(node, shard);
        for at in 0..ends {
            let (link, end) = self.network.end(node, shard, at);
            if let Some(conn) = self.network.links[link].believes[end] {
                self.pump(node, shard, conn, end);
            }
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        let (closed, heard) = (process.shards[shard].take_closed(), process.shards[shard].take_heard());
        for conn in closed {
            self.mark("connection closed by a shard");
            self.close(node, conn);
        }
        self.hear(node, &heard);
    }

    /// Moves what a shard has to send into the network.
    pub(super) fn pump(&mut self, node: usize, shard: usize, conn: ConnId, end: usize) {
        let room = self.network.room(conn, end);
        let Some(process) = &mut self.nodes[node].process else { return };
        let bytes = process.shards[shard].take_output(conn, room);
        if bytes.is_empty() {
            return;
        }
        let Some(state) = self.network.conns.get(&conn) else { return };
        let nodes = self.network.links[state.link].nodes;
        let mean = self.plan.delay_ns + self.network.lag_ns(nodes[end], nodes[1 - end]);
        let Some(state) = self.network.conns.get_mut(&conn) else { return };
        let direction = &mut state.directions[end];
        direction.bytes += bytes.len();
        if direction.dead {
            return;
        }
        let arrives = (self.now_ns + around(&mut self.dice, mean)).max(direction.last_ns + 1);
        direction.last_ns = arrives;
        direction.pieces.push_back((arrives, bytes));
        self.after(arrives - self.now_ns, Event::Deliver { conn, end });
    }

    /// Hands over what has arrived, piece by piece, unless a partition holds it back.
    pub(super) fn deliver(&mut self, conn: ConnId, end: usize) -> Result<(), String> {
        while let Some(state) = self.network.conns.get(&conn) {
            let nodes = self.network.links[state.link].nodes;
            let arrived = state.directions[end].pieces.front().is_some_and(|(arrives, _)| *arrives <= self.now_ns);
            if !arrived || state.directions[end].dead || !self.network.passes(nodes[end], nodes[1 - end]) {
                return Ok(());
            }
            let state = self.network.conns.get_mut(&conn).expect("it is there");
            let (_, bytes) = state.directions[end].pieces.pop_front().expect("it has arrived");
            self.hand_over(conn, end, &bytes)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, conn: ConnId, end: usize, bytes: &[u8]) -> Result<(), String> {
        let state = self.network.conns.get_mut(&conn).expect("the caller has seen it");
        state.directions[end].bytes -= bytes.len();
        let link = state.link;
        let nodes = self.network.links[link].nodes;
        let (from, to, shard) = (nodes[end], nodes[1 - end], self.network.links[link].shard);
        if self.network.links[link].believes[1 - end] != Some(conn) {
            let after = around(&mut self.dice, self.plan.delay_ns);
            self.after(after, Event::Closed { conn, end: 1 - end });
            return Ok(());
        }
        let mut decoder = state.decoders[1 - end].take().expect("nobody else decodes");
        let mut rest = bytes;
        let mut bad = None;
        while !rest.is_empty() && bad.is_none() {
            let piece = 1 + self.dice.below(rest.len());
            rest = &rest[decoder.push(&rest[..piece])..];
            bad = self
                .with_shard(to, shard, |sim| {
                    loop {
                        match decoder.next() {
                            Ok(Some(frame)) => sim.receive(conn, &frame),
                            Ok(None) => return None,
                            Err(error) => return Some(error),
                        }
                    }
                })
                .flatten();
        }
        if let Some(state) = self.network.conns.get_mut(&conn) {
            state.decoders[1 - end] = Some(decoder);
        }
        if let Some(error) = bad {
            return Err(format!("node {} sent node {} no frame: {error}", from + 1, to + 1));
        }
        // The socket has room again.
        if self.network.links[link].believes[end] == Some(conn) && !self.nodes[from].paused {
            self.pump(from, shard, conn, end);
        }
        Ok(())
    }

    /// A node closes its end of a connection.
    pub(super) fn close(&mut self, node: usize, conn: ConnId) {
        let Some(state) = self.network.conns.get(&conn) else { return };
        let link = state.link;
        let Some(end) = self.network.links[link].nodes.iter().position(|at| *at == node) else { return };
        if self.network.links[link].believes[end] == Some(conn) {
            let delay = around(&mut self.dice, self.plan.delay_ns);
            self.after(delay, Event::Closed { conn, end });
            self.closed_here(conn, end);
        }
    }

    /// A connection dies unheard: in both directions, in one, or so that only one end learns of it.
    pub(super) fn half_open(&mut self, conn: ConnId, end: usize) {
        let way = self.dice.below(3);
        let Some(state) = self.network.conns.get_mut(&conn) else { return };
        state.directions[end].dead = true;
        state.directions[1 - end].dead |= way > 0;
        if way > 1 && self.network.links[self.network.conns[&conn].link].believes[end] == Some(conn) {
            self.closed_here(conn, end);
        }
    }

    /// An end learns that its connection is over.
    pub(super) fn closed(&mut self, conn: ConnId, end: usize) {
        let Some(state) = self.network.conns.get(&conn) else { return };
        let link = state.link;
        let nodes = self.network.links[link].nodes;
        if state.directions[1 - end].dead && self.nodes[nodes[end]].process.is_some() {
            // It never hears of it.
            return;
        }
        if !self.network.passes(nodes[1 - end], nodes[end]) {
            self.network.conns.get_mut(&conn).expect("it is there").close_held[end] = true;
            return;
        }
        self.closed_here(conn, end);
    }

    /// Both ends learn that a connection of this node is dead.
    pub(super) fn bury_connections(&mut self, node: usize) {
        let of_node = |link: usize| self.network.links[link].nodes.contains(&node);
        let dead = self
            .network
            .conns
            .iter()
            .filter(|(_, conn)| of_node(conn.link) && conn.directions.iter().any(|direction| direction.dead));
        let dead: Vec<ConnId> = dead.map(|(conn, _)| *conn).collect();
        for conn in dead {
            self.closed_here(conn, 0);
            self.closed_here(conn, 1);
        }
    }

    fn closed_here(&mut self, conn: ConnId, end: usize) {
        let Some(state) = self.network.conns.get(&conn) else { return };
        let link = state.link;
        let nodes = self.network.links[link].nodes;
        if self.network.links[link].believes[end] == Some(conn) {
            self.network.links[link].believes[end] = None;
            let shard = self.network.links[link].shard;
            self.with_shard(nodes[end], shard, |sim| sim.disconnected(conn));
            if end == 1 {
                self.redial(link);
            }
        }
        self.network.forget_dead(conn);
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        if self.network.passes(from, to) {
            return;
        }
        self.network.set_blocked(from, to, false);
        let ids: Vec<ConnId> = self.network.conns.keys().copied().collect();
        for conn in ids {
            let Some(state) = self.network.conns.get_mut(&conn) else { continue };
            let nodes = self.network.links[state.link].nodes;
            for end in 0..2 {
                if (nodes[end], nodes[1 - end]) != (from, to) {
                    continue;
                }
                self.agenda.put(self.now_ns, Event::Deliver { conn, end });
                if std::mem::take(&mut state.close_held[1 - end]) {
                    self.agenda.put(self.now_ns + 1, Event::Closed { conn, end });
                }
            }
        }
    }
}
