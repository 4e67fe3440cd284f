//! `config.json`: a model's shape as `transformers` describes a Llama.

use std::fmt;

use neuroshard_core::tokenizer::{BOS, EOS, PAD};
use neuroshard_proto::{ModelSpec, Preset, TrainSpec};
use serde::Deserialize;
use serde_json::{Value, json};

/// RMSNorm's epsilon counts in units of this.
const PICO: f64 = 1e-12;

/// The configuration of a model. `bias` says that the head has one, which a Llama has not.
pub(super) fn to_json(model: &ModelSpec, training: &TrainSpec, bias: bool) -> Value {
    let theta = f64::from(model.rope_theta);
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab,
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_width(),
        "max_position_embeddings": model.context,
        "hidden_act": "silu",
        "rms_norm_eps": f64::from(model.norm_eps_pico) * PICO,
        // Older readers know the first form, newer ones the second.
        "rope_theta": theta,
        "rope_parameters": { "rope_type": "default", "rope_theta": theta },
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": false,
        "lm_head_bias": bias,
        "initializer_range": 0.02,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": "float32",
        "torch_dtype": "float32",
        "neuroshard": { "training": training },
    })
}

/// What is read of a configuration; the rest of it does not change what the model computes.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    vocab_size: u32,
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    max_position_embeddings: u32,
    hidden_act: Option<String>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    lm_head_bias: bool,
    neuroshard: Option<Own>,
}

#[derive(Debug, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Own {
    training: Option<TrainSpec>,
}

/// A configuration as the rest of the import needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) model: ModelSpec,
    /// The recipe that an export of ours brings along.
    pub(super) training: Option<TrainSpec>,
    /// Whether the head must have a bias.
    pub(super) bias: bool,
}

/// Reads a configuration.
///
/// # Errors
/// What in it no NeuroLLM can be, in words.
pub(super) fn parse(json: &[u8]) -> Result<Shape, String> {
    let config: Config = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let rope = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref());
    let theta = rope.and_then(|rope| rope.rope_theta).or(config.rope_theta).unwrap_or(10_000.0);
    let model = ModelSpec {
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
        ffn: config.intermediate_size,
        context: config.max_position_embeddings,
        vocab: config.vocab_size,
        rope_theta: whole(theta, "rope_theta")?,
        norm_eps_pico: whole(config.rms_norm_eps / PICO, "rms_norm_eps in units of 1e-12")?,
    };
    model.check().map_err(|error| error.to_string())?;
    let (vocab, head_width) = (Preset::Nano.specs().0.vocab, model.head_width());
    demand("model_type", &config.model_type, &"llama".to_owned())?;
    demand("vocab_size", &config.vocab_size, &vocab)?;
    demand("head_dim", &config.head_dim.unwrap_or(head_width), &head_width)?;
    demand("hidden_act", &config.hidden_act.unwrap_or_else(|| "silu".to_owned()), &"silu".to_owned())?;
    let scaling = config.rope_scaling.as_ref().and_then(|rope| rope.rope_type.as_ref());
    for kind in scaling.into_iter().chain(rope.and_then(|rope| rope.rope_type.as_ref())) {
        demand("the rope_type", kind, &"default".to_owned())?;
    }
    demand("attention_bias", &config.attention_bias, &false)?;
    demand("mlp_bias", &config.mlp_bias, &false)?;
    demand("tie_word_embeddings", &config.tie_word_embeddings, &false)?;
    let training = config.neuroshard.and_then(|own| own.training);
    if let Some(training) = &training {
        training.check(&model).map_err(|error| format!("neuroshard.training: {error}"))?;
    }
    Ok(Shape { model, training, bias: config.lm_head_bias })
}

fn demand<T: PartialEq + fmt::Debug>(name: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{name} is {found:?}, and a model here has {wanted:?}"))
}

/// A number that must be whole, but for the rounding of its decimal form.
fn whole(value: f64, name: &str) -> Result<u32, String> {
    let rounded = value.round();
    let close = (value - rounded).abs() <= 1e-6 * rounded.abs();
    if close && (1.0..=f64::from(u32::MAX)).contains(&rounded) {
        return Ok(rounded as u32);
    }
    Err(format!("{name} is {value}, and it must be a whole number from 1 on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported() -> Value {
        let (model, training) = Preset::Micro.specs();
        to_json(&model, &training, true)
    }

    fn read(config: &Value) -> Result<Shape, String> {
        parse(&serde_json::to_vec(config).unwrap())
    }

    #[test]
    fn what_is_written_reads_back() {
        for preset in Preset::ALL {
            let (model, training) = preset.specs();
            for bias in [false, true] {
                let shape = Shape { model, training: Some(training), bias };
                assert_eq!(read(&to_json(&model, &training, bias)), Ok(shape));
            }
        }
    }

    #[test]
    fn a_configuration_of_another_writer_is_understood() {
        let mut config = exported();
        let map = config.as_object_mut().unwrap();
        for key in ["neuroshard", "rope_parameters", "lm_head_bias", "head_dim", "num_key_value_heads", "hidden_act"] {
            map.remove(key);
        }
        let shape = read(&config).unwrap();
        assert_eq!((shape.training, shape.bias, shape.model.kv_heads), (None, false, 8));
        let (micro, _) = Preset::Micro.specs();
        assert_eq!(shape.model, ModelSpec { kv_heads: 8, ..micro });
    }

    #[test]
    fn each_thing_that_no_model_here_can_be_is_named() {
        let cases: [(&str, Value, &str); 14] = [
            ("model_type", json!("gpt2"), "model_type is \"gpt2\", and a model here has \"llama\""),
            ("vocab_size", json!(32_000), "vocab_size is 32000, and a model here has 266"),
            ("head_dim", json!(64), "head_dim is 64, and a model here has 32"),
            ("hidden_act", json!("gelu"), "hidden_act is \"gelu\""),
            ("rope_parameters", json!({ "rope_type": "yarn" }), "the rope_type is \"yarn\""),
            ("rope_scaling", json!({ "type": "linear", "factor": 2.0 }), "the rope_type is \"linear\""),
            ("rope_parameters", json!({ "rope_theta": 0.5 }), "rope_theta is 0.5"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps in units of 1e-12 is 0"),
            ("attention_bias", json!(true), "attention_bias is true"),
            ("mlp_bias", json!(true), "mlp_bias is true"),
            ("tie_word_embeddings", json!(true), "tie_word_embeddings is true, and a model here has false"),
            ("num_attention_heads", json!(7), "256 is not a multiple of twice the 7 heads"),
            ("hidden_size", json!(4_000_000_000_u32), "hidden is 4000000000"),
            ("neuroshard", json!({ "training": { "batch": 0 } }), "missing field"),
        ];
        for (key, value, words) in cases {
            let mut config = exported();
            config[key] = value;
            let error = read(&config).unwrap_err();
            assert!(error.contains(words), "{key}: {error}");
        }
        assert!(parse(b"{").unwrap_err().contains("EOF"));
    }
}
