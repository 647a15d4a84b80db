//! Guessed passwords get slower, and keep neither keys nor the right password out.

use crate::support::Server;
use crate::support::script::ScriptedClient;
use crate::support::tree::write;
use haul::net::wire::proto;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn guessed_passwords_get_slower_and_a_key_still_opens() {
    let server = Server::start();
    server.user(&["add", "pat"], "right");
    let by_key = server.client();
    let guesser = server.client();
    let url = format!("haul://pat@{}/", server.address);
    let guess = |password: &str| {
        write(&guesser.work().join("p"), password.as_bytes());
        let started = Instant::now();
        let ended = guesser.run(["ls", "--password-file", "p", &url]);
        (ended, started.elapsed())
    };
    for n in 0..6 {
        let (ended, _) = guess(&format!("wrong {n}"));
        assert_eq!(ended.code, 5, "{ended:?}");
    }
    // by now a guess waits for two seconds, over any connection, and so does the right password
    let (ended, took) = guess("right");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(took > Duration::from_millis(900), "{took:?}");
    // a guess is waiting; a key goes past it
    write(&guesser.work().join("p"), b"wrong");
    let mut waiting = guesser.spawn(["ls", "--password-file", "p", &url]);
    by_key.ok(["ls", "srv:"]);
    assert!(waiting.child.try_wait().unwrap().is_none(), "the guess is still waiting");
    assert_eq!(waiting.end().code, 5);
    // in the end guesses are not waited for at all, from this address: the answer is the same
    for _ in 0..3 {
        guess("wrong");
    }
    let many: Vec<_> = (0..12)
        .map(|_| guesser.spawn(["ls", "--password-file", "p", &url]))
        .collect();
    let ends: Vec<_> = many.into_iter().map(crate::support::Running::end).collect();
    assert!(ends.iter().all(|e| e.code == 5), "{ends:?}");
    assert!(ends.iter().any(|e| e.err.contains("too many failed logins")), "{ends:?}");
    by_key.ok(["ls", "srv:"]);
}

/// A password that was checked and found wrong, not one that was refused unseen.
fn was_checked(reply: &proto::Reply) -> bool {
    assert_eq!(reply.code, 530, "{reply:?}");
    !reply.text.contains("too many")
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_over_many_connections_are_as_slow_as_over_one() {
    let server = Server::start();
    server.user(&["add", "pat"], "right");
    let mut guesses = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut guesser = ScriptedClient::from_address([127, 0, 0, 2].into(), &server).await;
        guesses.spawn(async move { guesser.try_password(1, "pat", "wrong").await.unwrap() });
    }
    let replies = guesses.join_all().await;
    let checked = replies.iter().filter(|reply| was_checked(reply)).count();
    // three are free, and five more fit into the longest wait
    assert!((1..10).contains(&checked), "{checked} of 40 were looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_from_many_addresses_keep_the_right_password_not_out() {
    let server = Arc::new(Server::start());
    server.user(&["add", "pat"], "right");
    let (guessed, mut looked_at) = tokio::sync::mpsc::unbounded_channel();
    let mut guessers = tokio::task::JoinSet::new();
    for n in 0..24 {
        let (server, guessed) = (server.clone(), guessed.clone());
        // two connections of each of twelve addresses guess without a pause
        let address = [127, 0, 1, 1 + n / 2].into();
        guessers.spawn(async move {
            loop {
                let mut guesser = ScriptedClient::from_address(address, &server).await;
                for number in 1..=3 {
                    let Some(reply) = guesser.try_password(number, "pat", "wrong").await else {
                        break;
                    };
                    let _ = was_checked(&reply).then(|| guessed.send(()));
                }
            }
        });
    }
    for _ in 0..12 {
        looked_at.recv().await.unwrap();
    }
    let mut pat = ScriptedClient::from_address([127, 0, 2, 1].into(), &server).await;
    let reply = pat.try_password(1, "pat", "right").await.unwrap();
    assert_eq!(reply.code, 230, "{reply:?}");
}

#[test]
fn unknown_users_and_wrong_passwords_look_alike() {
    // three tries are free of delays, so each kind has a server of its own
    let tries = |user: &str| {
        let server = Server::start();
        server.user(&["add", "pat"], "right");
        let client = server.client();
        write(&client.work().join("p"), b"wrong");
        let url = format!("haul://{user}@{}/", server.address);
        let mut times: Vec<Duration> = (0..3)
            .map(|_| {
                let started = Instant::now();
                let ended = client.run(["ls", "--password-file", "p", &url]);
                let text = ended
                    .err
                    .replace(user, "USER")
                    .replace(&server.address.to_string(), "SERVER");
                assert_eq!(ended.code, 5);
                assert_eq!(text.lines().count(), 1);
                assert!(
                    text.starts_with(
                        "haul: USER@SERVER: login refused: unknown user, wrong password or"
                    ),
                    "{text}"
                );
                started.elapsed()
            })
            .collect();
        times.sort();
        times[1]
    };
    let (unknown, wrong) = (tries("nobody"), tries("pat"));
    // a password that is not hashed is refused in a small part of the time
    let ratio = unknown.as_secs_f64() / wrong.as_secs_f64();
    assert!((0.2..5.0).contains(&ratio), "{unknown:?} {wrong:?}");
}

#[test]
fn many_password_logins_at_once_stay_in_memory() {
    let server = Server::start();
    server.user(&["add", "pat"], "right");
    let client = server.client();
    write(&client.work().join("p"), b"right");
    let url = format!("haul://pat@{}/", server.address);
    let all: Vec<_> = (0..24)
        .map(|_| client.spawn(["ls", "--password-file", "p", &url]))
        .collect();
    for one in all {
        let ended = one.end();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    // each hash takes 19 MiB, two at a time
    assert!(server.memory("VmHWM") < 150_000, "{} kB", server.memory("VmHWM"));
    // a password that is longer than allowed is not hashed
    write(&client.work().join("long"), &[b'x'; 100_000]);
    client
        .run(["ls", "--password-file", "long", &url])
        .failed(5, &["login refused"]);
}
