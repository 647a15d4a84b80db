//! The JSON Schema of what haul prints, and its validator.

use serde_json::Value;
use std::path::Path;
use std::sync::LazyLock;

static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.schema.json");
    let schema = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
});

/// The objects of an output, each of which the schema allows.
#[track_caller]
pub fn valid_lines(out: &str) -> Vec<Value> {
    let objects = out.lines().map(|line| {
        let object = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(VALIDATOR.is_valid(&object), "the schema does not allow {line}");
        object
    });
    objects.collect()
}
