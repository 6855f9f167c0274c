//! etcd's API: its own tools, its messages, and etcd itself beside it.

mod api;
mod differential;
mod etcdctl;
mod peer;
mod random;
mod store;
