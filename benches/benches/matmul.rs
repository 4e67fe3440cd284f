//! Matrix products by Criterion: `cargo bench -p neuroshard-benches --bench matmul`.

use criterion::{BenchmarkId, Criterion, Throughput};
use neuroshard_benches::products::{Operands, SHAPES, Shape};
use neuroshard_shaders::cpu::Isa;
use neuroshard_shaders::cpu::measure::Product;

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    for shape in SHAPES {
        let Shape { name, kind, size } = shape;
        let mut group = criterion.benchmark_group(name);
        let [rows, cols, depth] = size;
        group.throughput(Throughput::Elements((2 * rows * cols * depth) as u64));
        let id = |who: &str| BenchmarkId::new(who, format!("{rows}x{cols}x{depth}"));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let Ok(mut product) = Product::new(isa, kind, size) else { continue };
            group.bench_function(id(isa.name()), |bencher| bencher.iter(|| product.multiply().len()));
        }
        let mut peer = Operands::new(shape);
        group.bench_function(id("gemm"), |bencher| bencher.iter(|| peer.gemm()));
        group.bench_function(id("matrixmultiply"), |bencher| bencher.iter(|| peer.matrixmultiply()));
        group.finish();
    }
    criterion.final_summary();
}
