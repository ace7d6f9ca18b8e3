"""What the paper claims, and how it is settled here."""

from workbench.paper import Claim, Recording

CLAIMS = (
    Claim(
        name="bag_of_patches",
        statement="Gated units replace attention; in the released code that leaves a bag of patches.",
        where="the thesis of the paper, and its code",
        reported="attention is replaced",
        unit="points of accuracy lost by A and B when the patches of test images are shuffled",
        how="permutation probe on digits; the larger of the two",
        low=0.0,
        high=0.0,
        must_hold=("cpu", "gpu"),
        caveat="Exactly zero: no patch is ever seen beside another, whatever is learned.",
    ),
    Claim(
        name="attention_sees_order",
        statement="The vision transformer that it replaces does use where a patch is.",
        where="our control",
        reported="-",
        unit="points of accuracy lost by the ViT when the patches of test images are shuffled",
        how="permutation probe on digits",
        low=20.0,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="accuracy",
        statement="More accurate than a ViT and an MLP-Mixer of equal size.",
        where="main table",
        reported="CIFAR-10: 73.2 against 65.7 and 70.1 %; CIFAR-100: 46.1 against 34.9 and 39.2 %",
        unit="points of accuracy on digits, variant B less the ViT",
        how="equal width, depth, patches and steps, mean over seeds",
        low=0.0,
        caveat="The other way round on digits: 8 x 8 strokes need their places, and nothing here overfits as an "
        "unregularised ViT does on CIFAR.",
    ),
    Claim(
        name="fewer_operations",
        statement="Variant B computes less than a ViT.",
        where="abstract",
        reported="lower computational cost",
        unit="times the ViT's multiply-adds",
        how="macs at the paper's width 256, hidden 512 and 64 patches",
        low=0.70,
        high=0.71,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="variant_a_operations",
        statement="Variant A computes less than a ViT.",
        where="abstract",
        reported="lower computational cost",
        unit="times the ViT's multiply-adds",
        how="as fewer_operations",
        high=1.0,
        caveat="Not at 64 patches: A needs fewer operations only where there are more patches than width.",
    ),
    Claim(
        name="faster_block",
        statement="A block of variant B takes less time than a ViT's.",
        where="abstract",
        reported="lower computational cost",
        unit="times as long for the ViT's block, at the number of patches where it is least",
        how="forward of one block each, fast, 64 to 4096 patches (fewer on a CPU)",
        low=1.0,
        must_hold=("gpu",),
    ),
    Claim(
        name="glu_family",
        statement="It matters little which gated linear unit is taken.",
        where="ablation",
        reported="GEGLU, SwiGLU and ReGLU alike",
        unit="points of accuracy on digits between the best and the worst of the three",
        how="variant B with each, mean over seeds",
        high=5.0,
        caveat="Seeds differ by some points on 360 test images.",
    ),
    Claim(
        name="left_or_right",
        statement="Without mixing, which of two marks is on the left cannot be learned.",
        where="our control",
        reported="-",
        unit="of the test images right, variant B (a half is chance)",
        how="tasks.images.left_of: two classes whose images hold the same patches",
        low=0.4,
        high=0.6,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="spatial_gate",
        statement="One learned matrix along the patches inside of the gate is enough to learn it.",
        where="our control; the paper's code has no such matrix",
        reported="-",
        unit="of the test images right, variant B with a spatial gate",
        how="as left_or_right",
        low=0.9,
        must_hold=("cpu", "gpu"),
    ),
)

RECORDINGS = (
    *(
        Recording(group=f"gate, hidden {hidden}", methods=("normalised_gate",), sizes=sizes, shape={"hidden": hidden})
        for hidden, sizes in ((512, (16384, 131072)), (2048, (16384,)))
    ),
    Recording(
        group="blocks, 16 images",
        methods=("activator_block", "attention_block"),
        sizes=(64, 256, 1024, 4096),
        shape={"batch": 16, "width": 256, "hidden": 512},
        implementations=("fast", "torch_compile"),
    ),
    Recording(  # without the host's time for launching
        group="blocks, 16 images, as a graph",
        methods=("activator_block", "attention_block"),
        sizes=(256, 1024, 4096),
        shape={"batch": 16, "width": 256, "hidden": 512},
        implementations=("fast", "torch_compile"),
        directions=("forward",),
        replayed=True,
    ),
)
