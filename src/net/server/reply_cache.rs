//! Remembers replies, so that a repeated request has its effect once.

use crate::net::wire::proto;
use prost::Message;
use std::collections::VecDeque;

/// Replies that are remembered.
const REPLIES: usize = 128;
/// Longest reply that is remembered, in bytes.
const REMEMBERED: usize = 1024;

/// The last replies of a session.
#[derive(Default)]
pub(super) struct ReplyCache {
    replies: VecDeque<proto::Reply>,
    last: u64,
}

/// What a request's number says about the request.
pub(super) enum Seen {
    /// It is new.
    No,
    /// It was answered before, with this reply.
    Answered(Box<proto::Reply>),
    /// It came before. Its answer is on its way, or not remembered any more.
    Unanswered,
}

impl ReplyCache {
    /// Looks a number up, and remembers a new one.
    pub(super) fn begin(&mut self, number: u64) -> Seen {
        if number > self.last {
            self.last = number;
            return Seen::No;
        }
        match self.replies.iter().find(|reply| reply.number == number) {
            Some(reply) => Seen::Answered(Box::new(reply.clone())),
            None => Seen::Unanswered,
        }
    }

    /// Remembers a reply.
    pub(super) fn remember(&mut self, reply: proto::Reply) {
        // a long reply is a listing's, which changes nothing; all together must be small
        if reply.encoded_len() > REMEMBERED {
            return;
        }
        if self.replies.len() >= REPLIES {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_gets_the_first_answer() {
        let mut cache = ReplyCache::default();
        assert!(matches!(cache.begin(1), Seen::No));
        assert!(matches!(cache.begin(1), Seen::Unanswered));
        let reply = proto::Reply {
            number: 1,
            code: 250,
            ..Default::default()
        };
        cache.remember(reply.clone());
        assert!(matches!(cache.begin(1), Seen::Answered(r) if *r == reply));
        for number in 2..=200 {
            assert!(matches!(cache.begin(number), Seen::No));
            cache.remember(proto::Reply {
                number,
                ..Default::default()
            });
        }
        assert!(matches!(cache.begin(1), Seen::Unanswered), "the cache is bounded");
    }
}
