"""The figures show the numbers of their tables, and every word on them can be read: what is drawn is looked at."""

import subprocess
import sys
import warnings
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import rgb_to_hsv
from matplotlib.text import Text

from repe.analysis.accuracy_table import of_figure2, with_averages
from repe.errors import UserError
from repe.paper import CONCEPTS, FAMILIES, LANGUAGES, SEVEN_BILLION, family_by_name
from repe.plots import figures
from repe.plots import style as print_style

PAPER = (
    "llama2-chat-7B",
    "llama2-chat-13B",
    "llama2-chat-70B",
    "qwen-chat-1B8",
    "qwen-chat-7B",
    "qwen-chat-14B",
    "bloomz-560M",
    "bloomz-1B7",
    "bloomz-7B1",
)
# Long names, families that the paper does not know, sizes in no order: what a user may have.
OWN = (
    "my-very-long-finetuned-llama-2024-13B",
    "my-very-long-finetuned-llama-2024-7B",
    "Qwen2.5-0.5B",
    "gemma-2-2B",
    "a_name_of_words_joined_by_underscores_8B",
    "phi",
    *(f"other-{size}B" for size in (1, 2, 3, 4, 5, 6)),
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def families(models):
    return {model: family_by_name(model) for model in models}


def accuracy_table(models, languages=LANGUAGES, concepts=CONCEPTS):
    rows = [(concept, model, language) for concept in concepts for model in models for language in languages]
    table = pd.DataFrame(rows, columns=["concept", "model", "language"])
    return table.assign(accuracy=np.random.default_rng(0).uniform(0.45, 0.95, len(table)), best_layer=1)


def recognition_bars(table, families):
    """Figure 2 of a Table 6 in long form."""
    return figures.recognition_bars(of_figure2(with_averages(table)), families)


def pair_table(models, languages, value, low, high, diagonal):
    rows = [(model, source, target) for model in models for source in languages for target in languages]
    table = pd.DataFrame(rows, columns=["model", "source", "target"])
    table[value] = np.random.default_rng(1).uniform(low, high, len(table))
    table.loc[table["source"] == table["target"], value] = diagonal
    return table


def similarity_table(models, languages=LANGUAGES[:12]):
    return pair_table(models, languages, "similarity", 0.2, 0.9, 1.0)


def transfer_table(models, languages=LANGUAGES[:12]):
    return pair_table(models, languages, "delta", -0.25, 0.1, 0.0).assign(accuracy=0.6)


def layer_table(models, layers=24):
    rows = [(model, layer, (layer - 1) / layers) for model in models for layer in range(1, layers + 1)]
    table = pd.DataFrame(rows, columns=["model", "layer", "relative_depth"])
    return table.assign(similarity=np.random.default_rng(2).uniform(0.1, 0.5, len(table)))


DRAWN = {
    "bars": lambda models, languages: recognition_bars(accuracy_table(models, languages), families(models)),
    "similarity": lambda models, languages: figures.similarity_heat_maps(
        similarity_table(models, languages), families(models)
    ),
    "transfer": lambda models, languages: figures.transfer_heat_maps(
        transfer_table(models, languages), families(models)
    ),
    "layers": lambda models, languages: figures.similarity_across_layers(layer_table(models), families(models)),
}


def bars_of(figure):
    """Upper ends of the bars, which begin at chance, as (models, languages); NaN where there is none."""
    axes = figure.axes[0]
    heights = np.full((len(axes.containers), len(axes.get_xticks())), np.nan)
    for model, bars in enumerate(axes.containers):
        for bar in bars:
            heights[model, round(bar.get_x() + bar.get_width() / 2)] = bar.get_y() + bar.get_height()
    return heights


def mesh_of(axes):
    (mesh,) = [artist for artist in axes.collections if isinstance(artist, QuadMesh)]
    return mesh


def marks_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def joining(figure):
    """The dashed lines with markers."""
    return [line for line in figure.axes[0].lines if line.get_linestyle() == "--" and line.get_marker() == "o"]


# What the figures show


def test_bars_are_as_high_as_the_mean_over_concepts_and_stand_in_the_order_of_the_models():
    table = accuracy_table(PAPER).sample(frac=1, random_state=0)
    figure = recognition_bars(table, families(PAPER))
    languages = list(dict.fromkeys(table["language"]))
    expected = [
        [table[(table["model"] == model) & (table["language"] == lang)]["accuracy"].mean() for lang in languages]
        for model in PAPER
    ]
    assert marks_of(figure.axes[0].xaxis) == languages
    np.testing.assert_allclose(bars_of(figure), expected, rtol=1e-12)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(PAPER)
    lefts = [bars[0].get_x() for bars in figure.axes[0].containers]
    assert lefts == sorted(lefts)


def test_the_axis_of_the_bars_holds_every_bar_and_chance():
    for shift in (-0.4, 0.0, 0.04):
        table = accuracy_table(PAPER[:2], LANGUAGES[:4], CONCEPTS[:1]).assign(best_layer=3)
        table["accuracy"] += shift
        low, high = recognition_bars(table, families(PAPER[:2])).axes[0].get_ylim()
        assert low < min(0.5, table["accuracy"].min()) and high >= max(0.5, table["accuracy"].max()), shift


def test_a_dashed_line_follows_each_seven_billion_model_when_all_three_are_there():
    figure = recognition_bars(accuracy_table(PAPER), families(PAPER))
    dashed = joining(figure)
    heights = dict(zip(PAPER, bars_of(figure), strict=True))
    assert [list(line.get_ydata()) for line in dashed] == [list(heights[model]) for model in SEVEN_BILLION]
    for line, model in zip(dashed, SEVEN_BILLION, strict=True):
        bars = figure.axes[0].containers[PAPER.index(model)]
        np.testing.assert_allclose(line.get_xdata(), [bar.get_x() + bar.get_width() / 2 for bar in bars])
    without = PAPER[:-1]
    figure = recognition_bars(accuracy_table(without), families(without))
    assert joining(figure) == []


def test_a_bar_without_a_value_is_left_out():
    table = accuracy_table(PAPER[:2], LANGUAGES[:3])
    table.loc[(table["model"] == PAPER[1]) & (table["language"] == "fr"), "accuracy"] = np.nan
    table = table.drop(table[(table["model"] == PAPER[0]) & (table["language"] == "zh")].index)
    figure = recognition_bars(table, families(PAPER[:2]))
    assert np.argwhere(np.isnan(bars_of(figure))).tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize(
    ("draw", "table", "value"),
    [
        (figures.similarity_heat_maps, similarity_table, "similarity"),
        (figures.transfer_heat_maps, transfer_table, "delta"),
    ],
)
def test_heat_maps_hold_the_cells_of_their_table_in_its_order_on_one_scale(draw, table, value):
    parts = [table([model], family_by_name(model).axis) for model in SEVEN_BILLION]
    cells = pd.concat([*parts, table(["not-asked-for"], ["en", "fr"]).assign(**{value: 99.0})])
    figure = draw(cells, families(SEVEN_BILLION))
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == list(SEVEN_BILLION)
    for axes, part, model in zip(panels, parts, SEVEN_BILLION, strict=True):
        axis = list(family_by_name(model).axis)
        expected = [part[(part["source"] == source)].set_index("target")[value][axis].tolist() for source in axis]
        assert mesh_of(axes).get_array().tolist() == expected
        assert marks_of(axes.xaxis) == marks_of(axes.yaxis) == axis
        assert axes.yaxis_inverted()  # the first language is on top
    scales = {mesh_of(axes).norm for axes in panels}
    assert len(scales) == 1
    (scale,) = scales
    np.testing.assert_allclose(bar.get_ylim(), (scale.vmin, scale.vmax))


def test_the_similarity_scale_spans_what_is_off_the_diagonal_and_says_that_more_is_above():
    table = similarity_table(PAPER[:2], LANGUAGES[:5])
    apart = table[table["source"] != table["target"]]["similarity"]
    figure = figures.similarity_heat_maps(table, families(PAPER[:2]))
    mesh = mesh_of(figure.axes[0])
    assert apart.min() - 0.05 <= mesh.norm.vmin <= apart.min() and apart.max() <= mesh.norm.vmax <= apart.max() + 0.05
    assert mesh.colorbar.extend == "max"
    same = figures.similarity_heat_maps(table.assign(similarity=1 + 1e-7), families(PAPER[:2]))
    mesh = mesh_of(same.axes[0])
    assert mesh.norm.vmin < mesh.norm.vmax == 1.0 and mesh.colorbar.extend == "neither"


def test_a_floor_has_a_panel_beside_its_model_on_the_same_scale():
    table = similarity_table(PAPER[:2], LANGUAGES[:4])
    figure = figures.similarity_heat_maps(
        table.assign(floor=table["similarity"] / 4), families(PAPER[:2]), "Linear CKA"
    )
    *panels, bar = figure.axes
    names = [axes.get_title().replace("\n", "") for axes in panels]
    assert names == [name for model in PAPER[:2] for name in (model, f"{model}: floor")]
    shown = [np.asarray(mesh_of(axes).get_array()) for axes in panels]
    np.testing.assert_allclose(shown[1], shown[0] / 4)
    assert len({mesh_of(axes).norm for axes in panels}) == 1 and bar.get_ylabel() == "Linear CKA"
    assert mesh_of(panels[0]).norm.vmin <= table["similarity"].min() / 4
    without = figures.similarity_heat_maps(table.assign(floor=np.nan), families(PAPER[:2]))
    assert len(without.axes) == 3


def test_the_transfer_scale_is_white_at_zero_and_as_long_below_as_above():
    table = transfer_table(PAPER[:1])
    mesh = mesh_of(figures.transfer_heat_maps(table, families(PAPER[:1])).axes[0])
    assert mesh.norm.vmax == -mesh.norm.vmin == table["delta"].abs().max()
    assert mesh.norm(0.0) == pytest.approx(0.5)
    red, _, blue, _ = mesh.cmap(mesh.norm(-0.1))
    assert red > blue
    red, _, blue, _ = mesh.cmap(mesh.norm(0.1))
    assert blue > red
    assert rgb_to_hsv(mesh.cmap(mesh.norm(0.0))[:3])[1] < 0.02


def test_a_cell_without_a_value_shows_the_hatching_behind_it():
    table = similarity_table(PAPER[:1], LANGUAGES[:4]).iloc[:-1]
    table.loc[1, "similarity"] = np.nan
    figure = figures.similarity_heat_maps(table, families(PAPER[:1]))
    axes = figure.axes[0]
    mask = np.ma.getmaskarray(mesh_of(axes).get_array())
    assert np.argwhere(mask).tolist() == [[0, 1], [3, 3]]
    assert mesh_of(axes).cmap(mesh_of(axes).get_array())[0, 1, 3] == 0  # transparent
    assert axes.patch.get_hatch()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no value"]
    assert "nan" not in [text.get_text() for text in axes.texts]


def test_numbers_stand_in_the_cells_where_they_fit():
    few = figures.transfer_heat_maps(transfer_table(PAPER[:1], ("en", "fr")), families(PAPER[:1])).axes[0]
    expected = [f"{value:.2f}".replace("-", "−") for value in transfer_table(PAPER[:1], ("en", "fr"))["delta"]]
    assert [text.get_text() for text in few.texts] == expected
    assert not figures.transfer_heat_maps(transfer_table(PAPER), families(PAPER)).axes[0].texts


def test_there_is_a_line_for_each_model_with_its_values_by_depth_and_its_name_in_the_legend():
    table = layer_table(PAPER).sample(frac=1, random_state=0)
    figure = figures.similarity_across_layers(table, families(PAPER))
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == list(PAPER)
    for line, shown, model in zip(figure.axes[0].lines, legend.get_lines(), PAPER, strict=True):
        rows = table[table["model"] == model].sort_values("layer")
        assert line.get_xdata().tolist() == rows["relative_depth"].tolist()
        assert line.get_ydata().tolist() == rows["similarity"].tolist()
        assert line.get_color() == shown.get_color()
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == len(PAPER)


def test_a_line_without_any_value_is_named_all_the_same():
    table = layer_table(PAPER[:3])
    table.loc[table["model"] == PAPER[1], "similarity"] = np.nan
    figure = figures.similarity_across_layers(table, families(PAPER[:3]))
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [PAPER[0], f"{PAPER[1]} (no value)", PAPER[2]]


def test_colours_tell_families_by_hue_and_sizes_by_shade_whatever_else_is_drawn():
    figure = recognition_bars(accuracy_table(PAPER), families(PAPER))
    colours = dict(zip(PAPER, [bars[0].get_facecolor()[:3] for bars in figure.axes[0].containers], strict=True))
    hues = [rgb_to_hsv(colours[model])[0] for model in PAPER]
    for first in (0, 3, 6):
        np.testing.assert_allclose(hues[first : first + 3], hues[first], atol=1e-6)
        lightness = [sum(colours[model]) for model in PAPER[first : first + 3]]
        assert lightness == sorted(lightness, reverse=True)  # the larger the darker
    assert len({round(hue, 3) for hue in hues}) == 3
    mixed = (PAPER[8], "own", PAPER[6], PAPER[7])
    figure = recognition_bars(accuracy_table(mixed), families(mixed))
    for model, bars in zip(mixed, figure.axes[0].containers, strict=True):
        assert model == "own" or bars[0].get_facecolor()[:3] == colours[model]


def test_twelve_models_of_no_family_have_twelve_looks():
    models = [f"model{number}" for number in range(12)]
    table = accuracy_table(models, LANGUAGES[:2])
    figure = recognition_bars(table, dict.fromkeys(models, FAMILIES["none"]))
    assert len({bars[0].get_facecolor() for bars in figure.axes[0].containers}) == 12


def test_a_model_without_a_row_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="bloomz-7B1"):
        recognition_bars(accuracy_table(PAPER[:2]), families([*PAPER[:2], "bloomz-7B1"]))


# How they look


@pytest.mark.parametrize(
    ("count", "rows", "columns"),
    [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3), (7, 2, 4), (9, 3, 3), (12, 3, 4)],
)
def test_panels_stand_in_a_grid_as_in_the_paper(count, rows, columns):
    figure = figures.similarity_heat_maps(similarity_table(OWN[:count], ("en", "fr")), families(OWN[:count]))
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (rows, columns)


def drawn_texts(figure, monkeypatch):
    """Every text that is painted, with its box in dots, at the resolution of the saved picture."""
    painted = []
    draw = Text.draw
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: (painted.append(text), draw(text, renderer)))
        figure.set_dpi(300)
        figure.draw_without_rendering()
    texts = [text for text in dict.fromkeys(painted) if text.get_visible() and text.get_text().strip()]
    return {text: Text.get_window_extent(text) for text in texts}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize(
    ("models", "languages"),
    [
        (OWN[:1], LANGUAGES[:2]),
        (OWN[:2], LANGUAGES[:4]),
        (OWN, [f"{language}-Latn" for language in LANGUAGES]),
    ],
    ids=lambda value: str(len(value)),
)
def test_every_word_can_be_read(kind, models, languages, monkeypatch):
    figure = DRAWN[kind](models, languages)
    boxes = drawn_texts(figure, monkeypatch)
    width, height = figure.get_size_inches()
    assert width <= 6.9 and height <= 9.2
    assert figure.get_tightbbox().height > height - 0.3, "paper is wasted"
    for text, box in boxes.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text.get_text()!r} is cut"
        assert text.get_fontsize() >= 6
        assert text.get_fontname() == "DejaVu Sans"
    for (text, box), (other, other_box) in combinations(boxes.items(), 2):
        across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        down = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        # A dot of 1/300 inch is within the rounding of a letter's box.
        assert min(across, down) <= 1, f"{text.get_text()!r} lies on {other.get_text()!r}"
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)


# Files


@pytest.mark.parametrize("kind", DRAWN)
def test_files_are_the_same_byte_by_byte_whatever_the_users_settings(kind, tmp_path):
    first = print_style.save(DRAWN[kind](PAPER[:2], LANGUAGES[:3]), tmp_path / "one", "name")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "pdf.fonttype": 3, "savefig.dpi": 50}):
        second = print_style.save(DRAWN[kind](PAPER[:2], LANGUAGES[:3]), tmp_path / "two", "name")
    assert [path.name for path in first] == ["name.png", "name.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["name.pdf", "name.png"]
    pdf = first[1].read_bytes()
    assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf


def test_a_saved_figure_is_emptied_and_its_resolution_is_that_of_print(tmp_path):
    figure = DRAWN["layers"](PAPER[:2], ())
    size = figure.get_size_inches()
    png, _ = print_style.save(figure, tmp_path, "name")
    assert figure.axes == []
    width, height = (int.from_bytes(png.read_bytes()[start : start + 4], "big") for start in (16, 20))
    np.testing.assert_allclose((width, height), size * 300, atol=1)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "name.png").write_bytes(b"old")
    figure = DRAWN["layers"](PAPER[:2], ())

    def full_disk(file, **options):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(UserError, match=r"name\.png"):
        print_style.save(figure, tmp_path, "name")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("name.png", b"old")]


def test_drawing_opens_no_window_and_loads_no_model_library():
    """Seaborn imports pyplot, whose figures would be kept, and shown where there is a screen."""
    code = (
        "import sys\nimport pandas as pd\nfrom repe.paper import FAMILIES\nfrom repe.plots import figures\n"
        "bars = pd.DataFrame({'model': ['m'], 'language': ['en'], 'accuracy': [0.7]})\n"
        "figures.recognition_bars(bars, {'m': FAMILIES['none']})\n"
        "cells = pd.DataFrame({'model': ['m'], 'source': ['en'], 'target': ['en'], 'similarity': [1.0]})\n"
        "figures.similarity_heat_maps(cells, {'m': FAMILIES['none']})\n"
        "from matplotlib import pyplot\n"
        "print(pyplot.get_fignums(), [m for m in ('torch', 'transformers', 'tkinter', 'PyQt6') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
