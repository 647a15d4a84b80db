//! All black-box tests, by theme, in one binary.

mod support;

mod auth;
mod bar;
mod cli;
mod completion;
mod confinement;
mod conformance;
mod connections;
mod crashes;
mod faults;
mod generated;
mod holes;
mod hostile_client;
mod hostile_server;
mod layering;
mod limits;
mod listings;
mod liveness;
mod log;
mod memory;
mod model;
mod names;
mod outputs;
mod panics;
mod plain_user;
mod power;
mod promises;
mod prompts;
mod reconnect;
mod records;
mod resume;
mod revocation;
mod sources;
mod transfers;
mod unread;
