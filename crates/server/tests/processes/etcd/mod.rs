//! etcd's API: its own tools, its messages, and etcd itself beside it.

mod api;
mod differential;
mod etcdctl;
mod faults;
mod members;
mod peer;
mod python;
mod random;
mod rust;
mod scale;
mod sleeper;
mod store;
mod ties;
