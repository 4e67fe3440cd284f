//! The list of kernels: which text each is made of, its entry point, its parameters and what it binds. Pipelines, tests
//! and translations all walk this list.

use neuroshard_proto::ops::Op;

/// A WGSL file by name.
pub type Source = (&'static str, &'static str);

/// The threads of a workgroup of the tile engine; each makes 8 x 8 outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    pub threads_m: u32,
    pub threads_n: u32,
}

impl Tile {
    /// From the largest, for products that fill a device, to the smallest, for those that do not.
    pub const ALL: [Self; 4] = [
        Self { threads_m: 16, threads_n: 16 },
        Self { threads_m: 8, threads_n: 8 },
        Self { threads_m: 8, threads_n: 4 },
        Self { threads_m: 4, threads_n: 4 },
    ];

    /// Rows and columns of the tile.
    pub const fn size(self) -> [u32; 2] {
        [8 * self.threads_m, 8 * self.threads_n]
    }
}

/// One entry point of a WGSL text.
#[derive(Debug)]
pub struct Kernel {
    /// The operation it belongs to.
    pub op: Op,
    /// Files that are put together, in order.
    pub sources: &'static [Source],
    /// The entry point, which also names the kernel.
    pub entry: &'static str,
    /// Members of the uniform `Params` after `zero`, in order.
    pub params: &'static [&'static str],
    /// What the entry point binds beside `params`, by number and name.
    pub bindings: &'static [(u32, &'static str)],
}

impl Kernel {
    /// The kernel's WGSL: its files one after the other.
    pub fn text(&self) -> String {
        self.sources.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("\n")
    }

    /// Whether the tile engine does its work, so that it has a tile to choose.
    pub fn is_tiled(&self) -> bool {
        self.bindings.contains(&A)
    }
}

macro_rules! source {
    ($name:literal) => {
        ($name, include_str!(concat!("../../wgsl/", $name)))
    };
}

/// The arithmetic that stands before every kernel.
pub const CANON: Source = source!("canon.wgsl");
const TREE: Source = source!("tree.wgsl");
const MATMUL: Source = source!("matmul.wgsl");
const ATTENTION: &[Source] = &[CANON, TREE, MATMUL, source!("attention.wgsl")];
const ATTENTION_BACKWARD: &[Source] = &[CANON, MATMUL, source!("attention_backward.wgsl")];
const RMS_NORM_BACKWARD: &[Source] = &[CANON, TREE, source!("rms_norm_backward.wgsl")];
const SUM_SQUARES: &[Source] = &[CANON, TREE, source!("sum_squares.wgsl")];

const FLAGS: (u32, &str) = (1, "flags");
const A: (u32, &str) = (2, "a");
const B: (u32, &str) = (3, "b");
const C: (u32, &str) = (4, "c");

pub static EMBED: Kernel = Kernel {
    op: Op::Embed,
    sources: &[CANON, source!("embed.wgsl")],
    entry: "embed",
    params: &["tokens", "width4", "first_row", "rows"],
    bindings: &[(2, "tokens"), (3, "table"), (4, "y")],
};

pub static EMBED_BACKWARD: Kernel = Kernel {
    op: Op::EmbedBackward,
    sources: &[CANON, source!("embed_backward.wgsl")],
    entry: "embed_backward",
    params: &["tokens", "width4", "first_row", "rows"],
    bindings: &[(2, "dy"), (3, "tokens"), (4, "order"), (5, "dtable")],
};

pub static RMS_NORM: Kernel = Kernel {
    op: Op::RmsNorm,
    sources: &[CANON, TREE, source!("rms_norm.wgsl")],
    entry: "rms_norm",
    params: &["rows", "width", "stride", "words", "inverse_width", "eps"],
    bindings: &[FLAGS, (2, "x"), (3, "gain"), (4, "y"), (5, "scales")],
};

const RMS_NORM_BACKWARD_PARAMS: &[&str] = &["rows", "width", "stride", "inverse_width", "has_skip"];

pub static RMS_NORM_INPUT_GRADIENT: Kernel = Kernel {
    op: Op::RmsNormBackward,
    sources: RMS_NORM_BACKWARD,
    entry: "input_gradient",
    params: RMS_NORM_BACKWARD_PARAMS,
    bindings: &[FLAGS, (2, "dy"), (3, "x"), (4, "gain"), (5, "scales"), (6, "skip"), (7, "dx")],
};

pub static RMS_NORM_GAIN_GRADIENT: Kernel = Kernel {
    op: Op::RmsNormBackward,
    sources: RMS_NORM_BACKWARD,
    entry: "gain_gradient",
    params: RMS_NORM_BACKWARD_PARAMS,
    bindings: &[(2, "dy"), (3, "x"), (5, "scales"), (8, "dgain")],
};

pub static MATMUL_NT: Kernel = Kernel {
    op: Op::MatmulNt,
    sources: &[CANON, MATMUL, source!("matmul_nt.wgsl")],
    entry: "matmul_nt",
    params: &["rows", "columns", "depth8", "stride4", "first4"],
    bindings: &[A, B, C],
};

pub static MATMUL_NN: Kernel = Kernel {
    op: Op::MatmulNn,
    sources: &[CANON, MATMUL, source!("matmul_nn.wgsl")],
    entry: "matmul_nn",
    params: &["rows", "depth", "first8", "dy_stride8", "w_stride8", "columns4", "resumes"],
    bindings: &[A, B, C],
};

pub static MATMUL_TN: Kernel = Kernel {
    op: Op::MatmulTn,
    sources: &[CANON, MATMUL, source!("matmul_tn.wgsl")],
    entry: "matmul_tn",
    params: &["depth", "rows", "first8", "dy_stride8", "x_stride8", "columns4"],
    bindings: &[A, B, C],
};

/// Also [`Op::RopeBackward`], by the constant `INVERSE`.
pub static ROPE: Kernel = Kernel {
    op: Op::Rope,
    sources: &[CANON, source!("rope.wgsl")],
    entry: "rope",
    params: &["tokens", "sequence", "turning", "heads", "head_width", "x_row", "x_head", "y_row", "y_head"],
    bindings: &[FLAGS, (2, "x"), (3, "rotary"), (4, "y")],
};

const ATTENTION_PARAMS: &[&str] = &[
    "sequence",
    "heads",
    "group",
    "head_width",
    "first_plane",
    "planes",
    "first_row",
    "rows",
    "columns",
    "a_row8",
    "a_head8",
    "b_row8",
    "b_head8",
    "b_first8",
    "y_words",
    "heads_stride",
    "scale",
];

/// Also of [`Op::AttentionBackward`].
pub static ATTENTION_PRODUCTS: Kernel =
    Kernel { op: Op::Attention, sources: ATTENTION, entry: "products", params: ATTENTION_PARAMS, bindings: &[A, B, C] };

pub static ATTENTION_SOFTMAX: Kernel = Kernel {
    op: Op::Attention,
    sources: ATTENTION,
    entry: "softmax",
    params: ATTENTION_PARAMS,
    bindings: &[FLAGS, (5, "scores"), (6, "weights"), (7, "maxima"), (8, "scales")],
};

pub static ATTENTION_ATTENDED: Kernel = Kernel {
    op: Op::Attention,
    sources: ATTENTION,
    entry: "attended",
    params: ATTENTION_PARAMS,
    bindings: &[FLAGS, A, B, (9, "y")],
};

const ATTENTION_BACKWARD_PARAMS: &[&str] = &[
    "sequence",
    "tokens",
    "heads",
    "group",
    "head_width",
    "first_plane",
    "planes",
    "first_row",
    "rows",
    "sharing",
    "columns",
    "b_row8",
    "b_head8",
    "b_first8",
    "c_row4",
    "c_head4",
    "c_first4",
    "y_words",
    "dy_head_words",
    "heads_stride",
    "resumes",
    "scale",
];

pub static ATTENTION_OVERLAP: Kernel = Kernel {
    op: Op::AttentionBackward,
    sources: ATTENTION_BACKWARD,
    entry: "overlap",
    params: ATTENTION_BACKWARD_PARAMS,
    bindings: &[(5, "y"), (6, "dy"), (7, "overlaps")],
};

pub static ATTENTION_WEIGHTED: Kernel = Kernel {
    op: Op::AttentionBackward,
    sources: ATTENTION_BACKWARD,
    entry: "weighted",
    params: ATTENTION_BACKWARD_PARAMS,
    bindings: &[
        FLAGS,
        (7, "overlaps"),
        (8, "scores"),
        (9, "score_gradients"),
        (10, "maxima"),
        (11, "scales"),
        (12, "weights"),
        (13, "gradients"),
    ],
};

pub static ATTENTION_QUERY_GRADIENT: Kernel = Kernel {
    op: Op::AttentionBackward,
    sources: ATTENTION_BACKWARD,
    entry: "query_gradient",
    params: ATTENTION_BACKWARD_PARAMS,
    bindings: &[A, B, C],
};

pub static ATTENTION_KEY_GRADIENT: Kernel = Kernel {
    op: Op::AttentionBackward,
    sources: ATTENTION_BACKWARD,
    entry: "key_gradient",
    params: ATTENTION_BACKWARD_PARAMS,
    bindings: &[A, B, C],
};

pub static SWIGLU: Kernel = Kernel {
    op: Op::SwiGlu,
    sources: &[CANON, source!("swiglu.wgsl")],
    entry: "swiglu",
    params: &["rows", "width", "stride", "words"],
    bindings: &[FLAGS, (2, "x"), (3, "a")],
};

pub static SWIGLU_BACKWARD: Kernel = Kernel {
    op: Op::SwiGluBackward,
    sources: &[CANON, source!("swiglu_backward.wgsl")],
    entry: "swiglu_backward",
    params: &["rows", "width", "da_stride", "stride", "words"],
    bindings: &[FLAGS, (2, "da"), (3, "x"), (4, "dx")],
};

pub static RESIDUAL: Kernel = Kernel {
    op: Op::Residual,
    sources: &[CANON, source!("residual.wgsl")],
    entry: "residual",
    params: &["count4"],
    bindings: &[(2, "x"), (3, "y"), (4, "sum")],
};

pub static CAST: Kernel = Kernel {
    op: Op::Cast,
    sources: &[CANON, source!("cast.wgsl")],
    entry: "cast_rows",
    params: &["rows", "width", "stride", "heads", "words", "flag"],
    bindings: &[FLAGS, (2, "x"), (3, "y")],
};

pub static CROSS_ENTROPY: Kernel = Kernel {
    op: Op::CrossEntropy,
    sources: &[CANON, TREE, source!("cross_entropy.wgsl")],
    entry: "cross_entropy",
    params: &["rows", "width", "stride", "words"],
    bindings: &[FLAGS, (2, "logits"), (3, "bias"), (4, "targets"), (5, "losses"), (6, "dlogits")],
};

const SUM_SQUARES_PARAMS: &[&str] = &["count", "width", "stride", "first_row", "first_total"];

pub static SUM_SQUARES_BLOCKS: Kernel = Kernel {
    op: Op::SumSquares,
    sources: SUM_SQUARES,
    entry: "blocks",
    params: SUM_SQUARES_PARAMS,
    bindings: &[FLAGS, (2, "weighting"), (3, "gradient"), (4, "totals")],
};

pub static SUM_SQUARES_STAGES: Kernel = Kernel {
    op: Op::SumSquares,
    sources: SUM_SQUARES,
    entry: "stage_norms",
    params: SUM_SQUARES_PARAMS,
    bindings: &[(4, "totals"), (5, "tensors"), (6, "stages"), (7, "norms")],
};

pub static ADAMW: Kernel = Kernel {
    op: Op::AdamW,
    sources: &[CANON, source!("adamw.wgsl")],
    entry: "adamw",
    params: &["count4", "decays"],
    bindings: &[(2, "rates"), (3, "weights"), (4, "moments1"), (5, "moments2"), (6, "gradients")],
};

/// Every kernel.
pub static ALL: [&Kernel; 24] = [
    &EMBED,
    &EMBED_BACKWARD,
    &RMS_NORM,
    &RMS_NORM_INPUT_GRADIENT,
    &RMS_NORM_GAIN_GRADIENT,
    &MATMUL_NT,
    &MATMUL_NN,
    &MATMUL_TN,
    &ROPE,
    &ATTENTION_PRODUCTS,
    &ATTENTION_SOFTMAX,
    &ATTENTION_ATTENDED,
    &ATTENTION_OVERLAP,
    &ATTENTION_WEIGHTED,
    &ATTENTION_QUERY_GRADIENT,
    &ATTENTION_KEY_GRADIENT,
    &SWIGLU,
    &SWIGLU_BACKWARD,
    &RESIDUAL,
    &CAST,
    &CROSS_ENTROPY,
    &SUM_SQUARES_BLOCKS,
    &SUM_SQUARES_STAGES,
    &ADAMW,
];
