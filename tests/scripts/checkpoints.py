#!/usr/bin/env python3
"""Writes the checkpoints that `tests/it/import.rs` reads, by the libraries whose formats they are, and loads our exports back.

needs: the packages of tests/scripts/checkpoints.txt (torch with its CUDA companions: some GB), which `make fixtures` installs apart.
usage: checkpoints.py write OUT            every fixture: a folder of checkpoint files and expected.safetensors (embedding, latents, reconstruction)
       checkpoints.py load SAE.safetensors SAELENS_DIR SPARSIFY_DIR
                                           loads what `recsae export` wrote and compares with the formula of the weights

SAELens, sparsify and dictionary_learning write their own files. RecSAE and OpenAI publish no package that writes theirs: these are
saved by torch from modules of the same class layout (github Alice1998/RecSAE src/models/sae/sae.py, openai/sparse_autoencoder model.py).
"""
import json, os, pathlib, sys
# sparsify's decoder asks for a GPU otherwise.
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
import torch
from safetensors.torch import load_file, save_file

D, N, K, ROWS = 12, 40, 5, 24


def filled(module, seed):
    """Every weight random, so that no bias is zero and no row of unit norm by accident."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator))
            if "threshold" in name:
                p.abs_()
    return module


def rows(seed, d=D):
    return torch.randn(ROWS, d, generator=torch.Generator().manual_seed(1000 + seed))


def expected(folder, x, latents, reconstruction):
    tensors = {"embedding": x, "latents": latents, "reconstruction": reconstruction}
    save_file({n: t.detach().float().contiguous() for n, t in tensors.items()}, str(folder / "expected.safetensors"))


def saelens(out):
    from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
    base = dict(d_in=D, d_sae=N, dtype="float32", device="cpu")
    cases = {
        "standard": (StandardSAE, StandardSAEConfig(**base)),
        "standard_uncentred": (StandardSAE, StandardSAEConfig(**base, apply_b_dec_to_input=False)),
        "topk": (TopKSAE, TopKSAEConfig(**base, k=K)),
        "topk_rescaled": (TopKSAE, TopKSAEConfig(**base, k=K, rescale_acts_by_decoder_norm=True)),
        "topk_square": (TopKSAE, TopKSAEConfig(**{**base, "d_sae": D}, k=3)),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig(**base)),
        "gated": (GatedSAE, GatedSAEConfig(**base)),
        "layer_norm": (StandardSAE, StandardSAEConfig(**base, normalize_activations="layer_norm")),
        "average_norm": (StandardSAE, StandardSAEConfig(**base, normalize_activations="expected_average_only_in")),
    }
    for seed, (name, (cls, cfg)) in enumerate(cases.items()):
        folder = out / f"saelens.{name}"
        folder.mkdir()
        sae = filled(cls(cfg), seed)
        x = rows(seed)
        expected(folder, x, sae.encode(x), sae(x))
        sae.save_model(folder)
        if name == "standard":
            # The same SAE with the configuration that versions before 6 wrote.
            old = out / "saelens.before_6"
            old.mkdir()
            save_file(load_file(str(folder / "sae_weights.safetensors")), str(old / "sae_weights.safetensors"))
            (old / "cfg.json").write_text(json.dumps({
                "architecture": "standard", "d_in": D, "d_sae": N, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K},
                "apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "normalize_activations": False, "hook_name": "h",
            }))
            pre = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
            latents = kept(pre, K)
            expected(old, x, latents, latents @ sae.W_dec + sae.b_dec)


def kept(pre, k):
    top = torch.topk(pre, k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values)


def sparsify(out):
    from sparsify import SparseCoder, SparseCoderConfig
    cases = {
        "topk": SparseCoderConfig(num_latents=N, k=K),
        "by_factor": SparseCoderConfig(num_latents=0, expansion_factor=3, k=K),
        "groupmax": SparseCoderConfig(num_latents=N, k=K, activation="groupmax"),
        "transcoder": SparseCoderConfig(num_latents=N, k=K, transcode=True, skip_connection=True),
    }
    for seed, (name, cfg) in enumerate(cases.items()):
        folder = out / f"sparsify.{name}"
        sae = filled(SparseCoder(D, cfg), 20 + seed)
        x = rows(20 + seed)
        acts, indices, _ = sae.encode(x)
        latents = torch.zeros(ROWS, sae.num_latents).scatter(-1, indices, acts)
        sae.save_to_disk(folder)
        expected(folder, x, latents, sae.decode(acts, indices))


def dictionary_learning(out):
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    cases = {
        "standard": AutoEncoder(D, N), "standard_new": AutoEncoderNew(D, N), "gated": GatedAutoEncoder(D, N),
        "jumprelu": JumpReluAutoEncoder(D, N), "topk": AutoEncoderTopK(D, N, K), "batchtopk": BatchTopKSAE(D, N, K),
        "batchtopk_raw": BatchTopKSAE(D, N, K), "topk_square": AutoEncoderTopK(D, D, 3),
    }
    for seed, (name, ae) in enumerate(cases.items()):
        folder = out / f"dictionary_learning.{name}"
        folder.mkdir()
        filled(ae, 40 + seed)
        if name == "batchtopk":
            ae.threshold.fill_(0.6)
        x = rows(40 + seed)
        latents = ae.encode(x)
        torch.save(ae.state_dict(), folder / "ae.pt")
        # As dictionary_learning.training writes it.
        config = {"trainer": {"dict_class": type(ae).__name__, "activation_dim": D, "dict_size": N}, "buffer": None}
        (folder / "config.json").write_text(json.dumps(config))
        if name != "batchtopk_raw":
            expected(folder, x, latents, ae.decode(latents))


class RecSAEModule(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(D, N)
        self.W_dec = torch.nn.Parameter(torch.empty(N, D))
        self.b_dec = torch.nn.Parameter(torch.empty(D))


class RecSAEModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.i_embeddings = torch.nn.Embedding(30, D)
        self.encoder = torch.nn.ModuleDict({"attention": torch.nn.Linear(D, D)})
        self.sae_module = RecSAEModule()


def recsae(out):
    folder = out / "recsae.sasrec"
    folder.mkdir()
    model = filled(RecSAEModel(), 60)
    sae, x = model.sae_module, rows(60)
    latents = kept(torch.relu(sae.encoder(x - sae.b_dec)), K)
    torch.save(model.state_dict(), folder / "SASRec_k5.pt")
    expected(folder, x, latents, latents @ sae.W_dec + sae.b_dec)
    # Names its storages by their addresses: the one file that no two runs write alike.
    torch.save(model.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(model, folder / "whole.pt")


def openai(out):
    for seed, (name, state, half) in enumerate([("topk", {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}, False),
                                                ("relu", {"activation": "ReLU"}, True)]):
        folder = out / f"openai.{name}"
        folder.mkdir()
        encoder, decoder = torch.nn.Linear(D, N, bias=False), torch.nn.Linear(N, D, bias=False)
        filled(encoder, 70 + seed), filled(decoder, 80 + seed)
        g = torch.Generator().manual_seed(90 + seed)
        pre_bias, latent_bias = 0.4 * torch.randn(D, generator=g), 0.4 * torch.randn(N, generator=g)
        if half:
            encoder, decoder, pre_bias, latent_bias = encoder.half().float(), decoder.half().float(), pre_bias.half().float(), latent_bias.half().float()
        x = rows(70 + seed)
        pre = torch.relu(encoder(x - pre_bias) + latent_bias)
        latents = kept(pre, K) if name == "topk" else pre
        tensors = {"pre_bias": pre_bias, "encoder.weight": encoder.weight, "latent_bias": latent_bias, "decoder.weight": decoder.weight,
                   "stats_last_nonzero": torch.zeros(N, dtype=torch.long)}
        stored = {n: t.detach().half() if half and t.is_floating_point() else t.detach() for n, t in tensors.items()}
        torch.save({**stored, **state}, folder / "autoencoder.pt")
        expected(folder, x, latents, decoder(latents) + pre_bias)


def load(sae_file, saelens_dir, sparsify_dir):
    """Our exports in the libraries they are for, beside the formula."""
    from sae_lens import SAE
    from safetensors import safe_open
    w = {n: t.double() for n, t in load_file(sae_file).items()}
    with safe_open(sae_file, "pt") as f:
        metadata = f.metadata()
    # As f32 holds them, so that both sides are given the same rows.
    x = (w["b_dec"] + torch.randn(256, w["b_dec"].shape[0], generator=torch.Generator().manual_seed(5))).float().double()
    centre = w["b_dec"] if metadata.get("centring") != "false" else 0
    pre = torch.relu((x - centre) @ w["encoder.weight"].T + w["encoder.bias"])
    latents = kept(pre, int(metadata["k"])) if "k" in metadata else pre * (pre > float(metadata["threshold"]))
    x_hat = latents @ w["W_dec"] + w["b_dec"]
    # What f32 loses at most: a gated SAE folded into thresholds has weights of a million, to which no fixed tolerance fits.
    def lost(a, b, bias):
        return (len(b) + 4) * 2.0**-24 * (a.abs() @ b.abs() + bias.abs())
    lost_latents = lost(x - centre, w["encoder.weight"].T, w["encoder.bias"])
    lost_x_hat = (lost_latents * (latents > 0)) @ w["W_dec"].abs() + lost(latents, w["W_dec"], w["b_dec"])
    sae = SAE.load_from_disk(saelens_dir)
    answers = {"sae_lens": (sae.encode(x.float()), sae(x.float()))}
    if "k" in metadata:
        from sparsify import SparseCoder
        coder = SparseCoder.load_from_disk(sparsify_dir)
        acts, indices, _ = coder.encode(x.float())
        answers["sparsify"] = (torch.zeros(latents.shape).scatter(-1, indices, acts), coder.decode(acts, indices))
    for name, (theirs, reconstruction) in answers.items():
        assert ((theirs > 0) == (latents > 0)).all(), f"{name}: other active latents"
        assert ((theirs.double() - latents).abs() <= lost_latents).all(), f"{name}: other values"
        assert ((reconstruction.double() - x_hat).abs() <= lost_x_hat).all(), f"{name}: another reconstruction"
        print(f"{name}: {len(x)} rows alike")


def main():
    if sys.argv[1] == "write":
        out = pathlib.Path(sys.argv[2])
        for old in sorted(out.glob("*/*")):
            old.unlink()
        for old in sorted(out.glob("*")):
            old.rmdir()
        for family in (saelens, sparsify, dictionary_learning, recsae, openai):
            family(out)
        total = sum(f.stat().st_size for f in out.glob("*/*"))
        print(f"{len(list(out.glob('*')))} checkpoints, {total} bytes")
        assert total < 1_000_000
    else:
        load(*sys.argv[2:5])


if __name__ == "__main__":
    main()
