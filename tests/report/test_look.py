import pytest

from faithgen.report.look import DARK, LEVELS, LIGHT, RAMPS, css_steps, css_variables, level, mix, ramp


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_writing_can_be_read_on_all_that_lies_behind_it(theme):
    """WCAG AA: 4.5 to 1."""
    for ground in (theme.back, theme.card):
        for colour in (theme.text, theme.soft, theme.link, theme.warn, theme.good):
            assert contrast(colour, ground) >= 4.5
    for full in (theme.apart, theme.looked):
        assert all(contrast(theme.text, step) >= 4.5 for step in ramp(theme.card, full))
    for bar in (theme.coarse, theme.fine):
        assert contrast(bar, theme.card) >= 3


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_steps_of_a_ramp_are_told_apart(theme):
    for full in RAMPS.values():
        steps = ramp(theme.card, getattr(theme, full))
        assert (steps[0], steps[-1], len(steps)) == (theme.card, getattr(theme, full), LEVELS + 1)
        away = [contrast(step, theme.card) for step in steps]
        assert away == sorted(away)
        assert len(set(steps)) == len(steps)


def test_mix_and_level_reach_their_ends():
    assert [mix("#000000", "#ff8040", share) for share in (0, 0.5, 1)] == ["#000000", "#804020", "#ff8040"]
    assert [level(value) for value in (-1, 0, 0.06, 0.07, 0.5, 1, 7)] == [0, 0, 0, 1, 4, 8, 8]


def test_every_step_has_a_rule_and_a_colour():
    variables, rules = css_variables(LIGHT), css_steps()
    for letter in RAMPS:
        for step in range(LEVELS + 1):
            assert f"--{letter}{step}: #" in variables
            assert f".{letter}{step} {{" in rules
