//! Compiles `control.proto` to Rust with protox, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "src/net/wire/control.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["src/net/wire"])?;
    let mut config = prost_build::Config::new();
    // an enum of messages is as large as its largest one
    config.boxed(".haul.v1.Changed.offer").compile_fds(files)?;
    Ok(())
}
