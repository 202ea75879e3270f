//! Topics, as a handler uses them.

use super::{
    context::{Context, SendError},
    topics::JoinError,
};
use crate::{id::Client, stats::Stat};

impl Context<'_> {
    /// Has an open connection hear what is [published](Self::publish) on a topic, a name of 1 to 255 bytes.
    /// False: it does already. It leaves when it is closed or moves to another worker; a break of the link
    /// changes nothing. One that has moved here has joined nothing, so a handler joins it again in
    /// [`on_open`](crate::Handler::on_open).
    ///
    /// Topics are this worker's own: [`Self::relay`] reaches other workers. A membership counts 100 bytes, a
    /// topic that has members 128 and its name, towards
    /// [`topic_bytes_max`](crate::WorkerConfig::topic_bytes_max).
    ///
    /// ```
    /// use roost_router::{Client, Context, Handler, Opened};
    /// use roost_protocol::SessionRef;
    ///
    /// /// One room, in which everybody hears everybody.
    /// struct Room;
    ///
    /// impl Handler for Room {
    ///     fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
    ///         if let Opened::New(opening) = opened {
    ///             ctx.accept(client, SessionRef(opening.routing_hash));
    ///         }
    ///         // Also where it has moved here.
    ///         let _ = ctx.join(client, b"room");
    ///     }
    ///     fn on_message(&mut self, ctx: &mut Context<'_>, _: Client, payload: &[u8], _resent: bool) {
    ///         let _ = ctx.publish(b"room", payload);
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// The connection is not open here, the name is too long or empty, or topics take as much as they may.
    pub fn join(&mut self, client: Client, topic: &[u8]) -> Result<bool, JoinError> {
        if !self.registry.is_open(client) {
            return Err(JoinError::Closed);
        }
        let joined = self.registry.topics.join(client.link.index, client.connection, topic);
        if joined.is_err() {
            self.stats.add(Stat::JoinsRefused, 1);
        }
        self.note_topics();
        joined
    }

    /// Undoes [`Self::join`]. False: it had not joined.
    ///
    /// ```
    /// # use roost_router::{Client, Context};
    /// fn switch_rooms(ctx: &mut Context<'_>, client: Client) {
    ///     ctx.leave(client, b"kitchen");
    ///     let _ = ctx.join(client, b"garden");
    /// }
    /// ```
    pub fn leave(&mut self, client: Client, topic: &[u8]) -> bool {
        let left = self.registry.is_open(client)
            && self.registry.topics.leave(client.link.index, client.connection, topic);
        self.note_topics();
        left
    }

    /// Sends one message to all members of a topic: one MULTICAST frame for each link that some of them
    /// have, or several where the connection ids take more than a frame. Returns for how many members it was
    /// queued, 0 where the topic has none.
    ///
    /// It is fewer than [`Self::topic_len`] where a link's queue was full, or where the frames take more than
    /// one call may queue; one frame for each link is always among what a call may. The rest is counted in
    /// [`Stat::SendsRefused`].
    ///
    /// ```
    /// # use roost_router::Context;
    /// fn goal(ctx: &mut Context<'_>) -> bool {
    ///     ctx.publish(b"match/17", b"1:0") == Ok(ctx.topic_len(b"match/17"))
    /// }
    /// ```
    ///
    /// # Errors
    /// The topic has members, and it was queued for none of them: what the first link refused it with.
    pub fn publish(&mut self, topic: &[u8], payload: &[u8]) -> Result<usize, SendError> {
        let (mut queued, mut refused) = (0, None);
        for place in self.registry.topics.links(topic) {
            let Some(id) = self.registry.id_at(place) else { continue };
            let ids: Vec<u8> = self
                .registry
                .topics
                .on_link(topic, place)
                .flat_map(|connection| connection.to_bits().to_be_bytes())
                .collect();
            match self.multicast_on(id, &ids, 0, payload) {
                Ok(count) => queued += count,
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        self.stats.add(Stat::Publishes, 1);
        self.stats.add(Stat::SendsRefused, (self.topic_len(topic) - queued) as u64);
        match refused {
            Some(error) if queued == 0 => Err(error),
            _ => Ok(queued),
        }
    }

    /// How many members a topic has here.
    ///
    /// ```
    /// # use roost_router::Context;
    /// fn is_anybody_there(ctx: &Context<'_>) -> bool {
    ///     ctx.topic_len(b"room") > 0
    /// }
    /// ```
    pub fn topic_len(&self, topic: &[u8]) -> usize {
        self.registry.topics.len(topic)
    }

    /// The members of a topic here, by link. Takes 16 bytes for each.
    ///
    /// ```
    /// # use roost_router::{Client, Context};
    /// fn others(ctx: &Context<'_>, me: Client) -> Vec<Client> {
    ///     ctx.topic_members(b"room").into_iter().filter(|&client| client != me).collect()
    /// }
    /// ```
    pub fn topic_members(&self, topic: &[u8]) -> Vec<Client> {
        let topics = &self.registry.topics;
        let links = topics.links(topic).into_iter();
        links
            .filter_map(|place| Some((place, self.registry.id_at(place)?)))
            .flat_map(|(place, link)| {
                topics.on_link(topic, place).map(move |connection| Client { link, connection })
            })
            .collect()
    }
}
