//! Compiles the wire protocol in pure Rust (protox), so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=littoral");
    println!("cargo:rerun-if-changed=grpc");
    let files =
        protox::compile(["littoral/v1/node.proto", "littoral/v1/cache.proto", "grpc/health/v1/health.proto"], ["."])?;
    tonic_prost_build::configure().bytes(".littoral.v1.GenerateRequest.request").compile_fds(files)?;
    Ok(())
}
