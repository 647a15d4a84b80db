//! Keeps a session's window at what is fair while others come and go, and its loan with it.
//!
//! A session that came first has been lent more than is fair once there are more of them, and has
//! more of its frames served than they: so it has less outstanding from then on. What it does not
//! need any more goes back when both sides have no more than that outstanding; the client says when
//! it has not. A client that never does has its memory, and is slow.

use crate::net::server::loan::{Borrower, FairWindow};
use crate::net::server::session::Session;
use std::sync::Arc;

/// A window that is asked for, and is smaller than what was lent.
struct Asked {
    number: u64,
    window: u64,
}

/// Keeps a session's window fair until the session is over. With `parts`, bytes go on in parts for
/// which a window of so many bytes has room, and none becomes too small for those of before.
pub(super) async fn follow(
    session: Arc<Session>,
    mut fair: FairWindow,
    (borrower, parts): (Borrower, u64),
) {
    let (mut asked, mut number) = (None::<Asked>, 0_u64);
    loop {
        let lent = session.window();
        let current = asked.as_ref().map_or(lent, |asked| asked.window);
        let wanted = fair.now(borrower).max(parts.saturating_mul(2).min(current));
        if is_other(wanted, current) {
            let window = if wanted < lent {
                number = number.saturating_add(1);
                asked = Some(Asked {
                    number,
                    window: wanted,
                });
                wanted
            } else {
                asked = None;
                session.widen(wanted);
                session.window()
            };
            session.use_at_most(window);
            let number = asked.as_ref().map_or(0, |asked| asked.number);
            if window != current && session.tell_window(window, number).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = fair.changed() => {}
            window = settled(&session, asked.as_ref()) => {
                asked = None;
                session.shrink(window);
            }
            _ = session.core.down() => return,
        }
    }
}

/// Whether a window differs so much from another that it is worth a message.
fn is_other(wanted: u64, current: u64) -> bool {
    wanted < current / 4 * 3 || wanted > current / 4 * 5
}

/// Waits until neither side has more outstanding than was asked for; gives that.
async fn settled(session: &Session, asked: Option<&Asked>) -> u64 {
    let Some(Asked { number, window }) = asked else {
        return std::future::pending().await;
    };
    // the sender is the session's own
    let _ = session.settled.subscribe().wait_for(|settled| settled == number).await;
    session.core.send_queue.credit().within(*window).await;
    *window
}
