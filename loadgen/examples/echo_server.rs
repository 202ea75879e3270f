//! The tests' echo server by itself, to try the load generator without a gateway:
//! `cargo run -p roost-loadgen --example echo_server`, then paste the line it prints.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
mod support;

fn main() {
    let server = support::Server::start(support::Fault::None);
    println!("roost-loadgen echo --target {} --gateway-pid {}", server.address(), std::process::id());
    loop {
        std::thread::park();
    }
}
