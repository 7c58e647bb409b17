//! End-to-end tests against the real binary; each test names the rows that it shows.

#![allow(clippy::unwrap_used)]

mod admin;
mod bad_state;
mod borders;
mod cold_miss;
mod config;
mod connections;
mod crash;
mod errors;
mod failures;
mod fixtures;
mod fleet_deaths;
mod fleet_demo;
mod fleet_events;
mod fleet_failures;
mod fleet_herds;
mod fleet_holders;
mod fleet_mistakes;
mod fleet_outages;
mod fleet_scene;
mod go_client;
mod harness;
mod herds;
mod http_semantics;
mod kept;
mod kills;
mod links;
mod lists;
mod negative;
mod paths;
mod queries;
mod restarts;
mod retries;
mod rolling;
mod shared_store;
mod shutdown;
mod stale;
mod storage;
mod sumdb;
mod warm_hit;
mod zips;
