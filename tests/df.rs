//! `haul df`: what the file system says, in bytes or in units.

use crate::support::Server;

#[test]
fn df_says_what_the_file_system_says() {
    let server = Server::start();
    let client = server.client();
    crate::support::until("the sizes agree, however much others write", || {
        let df: serde_json::Value =
            serde_json::from_str(&client.ok(["df", "--json", "srv:"])).unwrap();
        let stat = rustix::fs::statvfs(&server.root).unwrap();
        let bytes = |blocks: u64| serde_json::Value::from(blocks * stat.f_frsize);
        df["total"] == bytes(stat.f_blocks)
            && df["free"] == bytes(stat.f_bavail)
            && df["used"] == bytes(stat.f_blocks - stat.f_bfree)
    });
}

/// `-h` is what it is elsewhere: sizes with units.
#[test]
fn df_h_shows_units() {
    let server = Server::start();
    let client = server.client();
    let (plain, units) = (client.ok(["df", "srv:"]), client.ok(["df", "-h", "srv:"]));
    let size = |text: &str| {
        text.lines()
            .nth(1)
            .unwrap()
            .trim_start()
            .split("  ")
            .next()
            .unwrap()
            .to_string()
    };
    assert!(size(&plain).parse::<u64>().is_ok(), "{plain}");
    assert!(size(&units).ends_with("iB"), "{units}");
}
