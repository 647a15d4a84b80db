//! Transfers of what had directories in its place, once a deletion has removed them.

use super::filter::literally;
use crate::net::error::NetError;
use crate::net::transfer::filter::{BadRule, Filter, MAX_SENT_FILTER, Rule};
use crate::net::transfer::options::Options;
use crate::store::{RemotePath, StoreError};

/// Bytes of the rule that excludes everything else.
const LAST_RULE: usize = 16;

/// The options of transfers of nothing but these paths.
///
/// # Errors
/// That of a path that no rule can have.
pub fn transfers_of(options: &Options, paths: &[Vec<u8>]) -> Result<Vec<Options>, NetError> {
    let bad = |e: BadRule| StoreError::because(&e.to_string(), &RemotePath::root());
    let (mut transfers, mut rest) = (Vec::new(), paths);
    while !rest.is_empty() {
        let (mut rules, mut bytes) = (Vec::new(), LAST_RULE);
        for path in rest {
            let rule = Rule::new(true, &[b"/", &literally(path)[..]].concat()).map_err(bad)?;
            bytes = bytes.saturating_add(rule.text().len()).saturating_add(1);
            if bytes > MAX_SENT_FILTER && !rules.is_empty() {
                break;
            }
            rules.push(rule);
        }
        rest = rest.get(rules.len()..).unwrap_or_default();
        rules.push(Rule::new(false, b"*").map_err(bad)?);
        transfers.push(Options {
            filter: Filter::new(rules).map_err(bad)?,
            mirror: false,
            ..options.clone()
        });
    }
    Ok(transfers)
}
