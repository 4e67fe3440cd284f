//! In and out again, and everything that can be wrong with what comes in.

use std::fs;
use std::path::Path;

use neuroshard_proto::{Commitment, Hash, Job, LayerIndex, ModelSpec, Params, Preset, TrainSpec};
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::executor::Executor;
use neuroshard_shaders::layout::LayerLayout;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::data::Embedded;
use crate::home::Home;
use crate::network::{Founding, Source};
use crate::store::StoreBlobs;

fn specs() -> (ModelSpec, TrainSpec) {
    let (nano, training) = Preset::Nano.specs();
    let model = ModelSpec { layers: 2, hidden: 16, heads: 2, kv_heads: 1, ffn: 24, context: 32, ..nano };
    (model, TrainSpec { batch: 2, sequence: 16, ..training })
}

/// Weights of a stage, none of them zero.
fn stage(model: &ModelSpec, layer: LayerIndex) -> Vec<f32> {
    let count = LayerLayout::new(model, layer).elements as u32;
    (0..count).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(layer.0) >> 8) as f32 * 1e-8 - 0.08).collect()
}

/// A checkpoint as an export writes it.
fn checkpoint(bias: bool) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (model, training) = specs();
    let stages = model.all_layers().iter().flat_map(|layer| stage(&model, layer));
    let mut file = checkpoint::header(&model, bias);
    file.extend(stages.flat_map(f32::to_le_bytes));
    if !bias {
        file.truncate(file.len() - 4 * model.vocab as usize);
    }
    fs::write(dir.path().join(WEIGHTS), file).unwrap();
    let write = |name: &str, value: Value| fs::write(dir.path().join(name), format!("{value:#}\n")).unwrap();
    write(CONFIG, config::to_json(&model, &training, bias));
    write(TOKENIZER, tokenizer_json());
    dir
}

/// Founds a network in a new data directory with a checkpoint's weights.
fn import(from: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::open(from).unwrap();
    let (home, network) = Home::open(dir.path(), 1 << 30).unwrap();
    assert!(network.is_none());
    let first = Some(checkpoint.put(&home.store).unwrap());
    let (model, training) = (*checkpoint.model(), checkpoint.training());
    let text = vec![b'x'; 4000];
    let source = Source::Book(Embedded(vec![("x", &text)]));
    let (params, seed) = (Params::DEFAULT, Hash::default());
    let founders = vec![home.founder()].try_into().unwrap();
    let founding = Founding { model, training, params, seed, source, founders, allocations: Default::default(), first };
    home.found(&founding, &mut |_, _| {}).unwrap();
    dir
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
    };
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(file).collect();
    files.sort();
    files
}

#[test]
fn what_went_in_comes_out_with_the_same_bytes() {
    for bias in [true, false] {
        let (from, out) = (checkpoint(bias), tempfile::tempdir().unwrap());
        let (first, second) = (out.path().join("first"), out.path().join("second"));
        let exported = export(import(from.path()).path(), &first, false).unwrap();
        assert_eq!((exported.step.0, exported.bias), (0, bias));
        assert_eq!(exported.bytes, fs::metadata(first.join(WEIGHTS)).unwrap().len());
        for name in [WEIGHTS, CONFIG, TOKENIZER] {
            assert_eq!(fs::read(first.join(name)).unwrap(), fs::read(from.path().join(name)).unwrap(), "{name}");
        }
        export(import(&first).path(), &second, false).unwrap();
        assert_eq!(contents(&first), contents(&second));
        assert_eq!(contents(&first).len(), 5);
    }
}

#[test]
fn the_first_state_is_one_that_an_executor_loads() {
    let data = import(checkpoint(true).path());
    let saved = SavedModel::open(data.path()).unwrap();
    let model = *saved.model();
    assert_eq!(saved.network.genesis.first.as_ref(), Some(&saved.snapshot));
    assert_eq!(
        saved.weights().unwrap(),
        model.all_layers().iter().map(|layer| stage(&model, layer)).collect::<Vec<_>>()
    );
    let snapshot = saved.snapshot.clone();
    drop(saved);
    let (home, _) = Home::open(data.path(), 1 << 30).unwrap();
    let mut executor = Executor::new(Box::new(CpuEngine::new(Options::default()).unwrap()));
    let load = Job::Load { model, range: model.all_layers(), snapshot: snapshot.clone() };
    // The executor computes the root itself, over weights and moments.
    let ready = executor.run(&load, &mut StoreBlobs(home.store.clone())).unwrap();
    assert_eq!(ready, Commitment::Ready { step: snapshot.step, root: snapshot.root });
}

#[test]
fn nothing_is_exported_before_the_first_save_or_over_other_files() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (home, _) = Home::open(data.path(), 1 << 30).unwrap();
    let (model, training) = specs();
    let text = vec![b'x'; 4000];
    let source = Source::Book(Embedded(vec![("x", &text)]));
    let (params, seed) = (Params::DEFAULT, Hash::default());
    let founders = vec![home.founder()].try_into().unwrap();
    let founding =
        Founding { model, training, params, seed, source, founders, allocations: Default::default(), first: None };
    home.found(&founding, &mut |_, _| {}).unwrap();
    drop(home);
    let error = export(data.path(), &out.path().join("new"), false).unwrap_err();
    assert!(error.to_string().contains("has no saved weights yet"), "{error}");
    assert!(!out.path().join("new").exists());

    let data = import(checkpoint(true).path());
    fs::write(out.path().join("letter"), "dear reader").unwrap();
    let error = export(data.path(), out.path(), false).unwrap_err();
    assert!(error.to_string().contains("is not empty, and nothing was written into it"), "{error}");
    assert_eq!(contents(out.path()).len(), 1);
    export(data.path(), out.path(), true).unwrap();
    assert_eq!(contents(out.path()).len(), 6);
}

/// A checkpoint's tensors, to be spoiled.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn refused(spoil: impl FnOnce(&mut Tensors)) -> String {
    let dir = checkpoint(true);
    rewrite(dir.path(), spoil);
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

/// Writes a checkpoint's weights anew, by the library and in its order.
fn rewrite(dir: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = dir.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let owned = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    let mut tensors: Tensors = parsed.iter().map(owned).collect();
    change(&mut tensors);
    let view = |(name, dtype, shape, data): &(String, Dtype, Vec<usize>, Vec<u8>)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap().data().to_vec(), *dtype, shape.clone())
    };
    let kept: Vec<_> = tensors.iter().map(view).collect();
    let views = kept
        .iter()
        .map(|(name, data, dtype, shape)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(&path, serialize(views, None).unwrap()).unwrap();
}

fn find<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut (String, Dtype, Vec<usize>, Vec<u8>) {
    tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
}

const GATE: &str = "model.layers.1.mlp.gate_proj.weight";

#[test]
fn tensors_in_another_order_and_of_half_precision_are_read() {
    let (from, plain) = (checkpoint(true), checkpoint(true));
    rewrite(from.path(), |tensors| {
        tensors.reverse();
        let (_, dtype, _, data) = find(tensors, GATE);
        // The upper halves of singles are bfloat16, and those of few enough digits are the same numbers.
        *dtype = Dtype::BF16;
        *data = data.chunks(4).flat_map(|word| [word[2], word[3]]).collect();
        let (_, dtype, _, data) = find(tensors, "model.norm.weight");
        *dtype = Dtype::F16;
        *data = [0x3c00_u16, 0xc000].repeat(8).into_iter().flat_map(u16::to_le_bytes).collect();
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), Dtype::F32, vec![1], vec![0; 4]));
    });
    rewrite(plain.path(), |tensors| {
        let (_, _, _, data) = find(tensors, GATE);
        data.chunks_mut(4).for_each(|word| word[..2].fill(0));
        let (_, _, _, data) = find(tensors, "model.norm.weight");
        *data = [1.0_f32, -2.0].repeat(8).into_iter().flat_map(f32::to_le_bytes).collect();
    });
    let weights = |dir: &TempDir| Checkpoint::open(dir.path()).unwrap().weights().unwrap();
    assert_eq!(weights(&from), weights(&plain));
}

#[test]
fn a_wrong_tensor_is_named() {
    let error = refused(|tensors| tensors.retain(|tensor| tensor.0 != GATE));
    assert!(error.ends_with(&format!("has no tensor {GATE}")), "{error}");
    let error = refused(|tensors| tensors.retain(|tensor| tensor.0 != "lm_head.bias"));
    assert!(error.contains("has no tensor lm_head.bias, and config.json says"), "{error}");
    let error = refused(|tensors| find(tensors, GATE).2 = vec![16, 24]);
    assert!(error.contains(&format!("{GATE} has the shape [16, 24]")) && error.contains("needs [24, 16]"), "{error}");
    let error = refused(|tensors| find(tensors, GATE).1 = Dtype::I32);
    assert!(error.contains(&format!("{GATE} has elements of type I32; F32, BF16 and F16")), "{error}");
    let error = refused(|tensors| find(tensors, GATE).0 = GATE.replace("gate", "door"));
    assert!(error.contains(&format!("has no tensor {GATE}")), "{error}");
    let extra = ("model.layers.2.mlp.up_proj.weight".to_owned(), Dtype::F32, vec![1], vec![0; 4]);
    let error = refused(|tensors| tensors.push(extra));
    assert!(error.contains("tensor model.layers.2.mlp.up_proj.weight, for which the model has no place"), "{error}");
}

#[test]
fn values_that_cannot_be_computed_with_are_found_and_placed() {
    for value in [f32::NAN, f32::INFINITY, -2e15] {
        let error = refused(|tensors| find(tensors, GATE).3[40..44].copy_from_slice(&value.to_le_bytes()));
        assert!(error.starts_with(&format!("element 10 of tensor {GATE} is {value}: ")), "{error}");
    }
}

#[test]
fn tiny_values_become_zero_as_everywhere_in_stored_state() {
    let dir = checkpoint(true);
    rewrite(dir.path(), |tensors| find(tensors, "lm_head.bias").3[..8].copy_from_slice(&[0, 0, 0, 128, 1, 0, 0, 0]));
    let weights = Checkpoint::open(dir.path()).unwrap().weights().unwrap();
    let last = &weights[2];
    let bias: Vec<u32> = last[last.len() - 266..][..2].iter().map(|value| value.to_bits()).collect();
    assert_eq!(bias, [0, 0]);
}

#[test]
fn files_of_a_wrong_length_are_told_by_how_much() {
    let dir = checkpoint(true);
    let path = dir.path().join(WEIGHTS);
    let whole = fs::read(&path).unwrap();
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(dir.path()).unwrap_err().to_string()
    };
    let error = open(&whole[..whole.len() - 1]);
    assert!(error.contains(&format!("has {} bytes", whole.len() - 1)) && error.contains("it is cut short"), "{error}");
    assert!(open(&[&whole[..], b"x"].concat()).contains("followed by something else"));
    assert!(open(&whole[..500]).contains("and the file has 500"));
    assert!(open(&whole[..7]).contains("the file has 7 bytes"));
    assert!(open(b"").contains("the file has 0 bytes"));
}

#[test]
fn a_damaged_header_is_an_error_and_allocates_nothing_by_its_word() {
    let dir = checkpoint(true);
    let path = dir.path().join(WEIGHTS);
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(dir.path()).unwrap_err().to_string()
    };
    let with = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    assert!(open(&u64::MAX.to_le_bytes()).contains("claims 18446744073709551615 bytes, at most"));
    assert!(open(&(1_u64 << 20).to_le_bytes()).contains("claims 1048576 bytes, and the file has 8"));
    assert!(open(&with("{")).contains("EOF"));
    assert!(open(&with("[1]")).contains("is damaged"));
    assert!(open(&with(&"[".repeat(100_000))).contains("is damaged"));
    let tensor = |shape: &str, to: u64| {
        format!("{{\"lm_head.bias\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{to}]}}}}")
    };
    assert!(open(&with(&tensor("[266]", 1064))).contains("it is cut short"));
    assert!(open(&with(&tensor("[4611686018427387904, 8]", 0))).contains("is damaged"));
    assert!(open(&with(&tensor("[144115188075855872]", 1 << 59))).contains("it is cut short"));
    // Every single damaged byte of a header is noticed or changes nothing that is read.
    let (whole, model) = (fs::read(checkpoint(true).path().join(WEIGHTS)).unwrap(), specs().0);
    for place in (0..checkpoint::header(&model, true).len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x15;
        fs::write(&path, &damaged).unwrap();
        if let Ok(mut checkpoint) = Checkpoint::open(dir.path()) {
            let stages = checkpoint.weights().unwrap();
            assert!(stages.iter().map(Vec::len).sum::<usize>() as u64 == model.parameters());
        }
    }
}

#[test]
fn a_directory_that_is_no_whole_checkpoint_says_what_is_missing() {
    for (name, words) in [(CONFIG, "save_pretrained"), (TOKENIZER, "266 tokens"), (WEIGHTS, "save them in one file")] {
        let dir = checkpoint(true);
        fs::remove_file(dir.path().join(name)).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("has no {name}")) && error.contains(words), "{error}");
    }
    let dir = checkpoint(true);
    let text = fs::read_to_string(dir.path().join(CONFIG)).unwrap();
    fs::write(dir.path().join(CONFIG), text.replace("\"vocab_size\": 266", "\"vocab_size\": 50257")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json: vocab_size is 50257, and a model here has 266"), "{error}");
}

#[test]
fn a_tokenizer_that_numbers_otherwise_is_refused() {
    let dir = checkpoint(true);
    let path = dir.path().join(TOKENIZER);
    let mut json = tokenizer_json();
    json["added_tokens"] = serde_json::json!([{ "id": 2, "content": "x" }]);
    fs::write(&path, json.to_string()).unwrap();
    Checkpoint::open(dir.path()).unwrap();
    json["model"]["vocab"]["A"] = 76.into();
    fs::write(&path, json.to_string()).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("its /model/vocab is not that of a network's first vocabulary"), "{error}");
    fs::write(&path, "{").unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("tokenizer.json: EOF"));
}

#[test]
fn the_recipe_is_the_checkpoints_own_or_the_nearest_presets() {
    let dir = checkpoint(true);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().training(), specs().1);
    let mut json: Value = serde_json::from_slice(&fs::read(dir.path().join(CONFIG)).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("neuroshard");
    fs::write(dir.path().join(CONFIG), json.to_string()).unwrap();
    let (_, nano) = Preset::Nano.specs();
    let found = Checkpoint::open(dir.path()).unwrap().training();
    assert_eq!(found, TrainSpec { sequence: 32, ..nano });
}
