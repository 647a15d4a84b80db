//! Compiles the `.proto` files to Rust with protox, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const DIR: &str = "src/net/wire";
    for file in ["control", "transfer", "entry", "carrier"] {
        println!("cargo:rerun-if-changed={DIR}/{file}.proto");
    }
    let files = protox::compile(["control.proto", "carrier.proto"], [DIR])?;
    let mut config = prost_build::Config::new();
    // an enum of messages is as large as its largest one
    for field in [
        "Changed.offer",
        "CopyReport.counts",
        "SendTo.copy",
        "MakeTicket.put",
        "Options.view",
        "Options.backup",
    ] {
        config.boxed(format!(".haul.v1.{field}"));
    }
    config.compile_fds(files)?;
    Ok(())
}
