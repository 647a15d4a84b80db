"""Draws costs against amounts, both axes logarithmic, as SVG."""

import math
import textwrap

WIDTH, HEIGHT, MARGIN = 380, 280, 52
COLORS = {"seconds": "#1f77b4", "processor seconds of both sides": "#d62728"}


def decades(values):
    low, high = min(values), max(values)
    first = math.floor(math.log10(low))
    return first, max(math.ceil(math.log10(high)), first + 1)


def panel(title, points, left, top):
    """One plot: what `points`, of an amount and its two costs, are."""
    amounts = [p[0] for p in points]
    costs = [max(cost, 0.01) for p in points for cost in p[1:]]
    (x0, x1), (y0, y1) = decades(amounts), decades(costs)
    x = lambda v: left + MARGIN + (math.log10(v) - x0) / (x1 - x0) * (WIDTH - 1.5 * MARGIN)
    y = lambda v: top + HEIGHT - MARGIN - (math.log10(v) - y0) / (y1 - y0) * (HEIGHT - 2 * MARGIN)
    out = [f'<text x="{left + WIDTH / 2}" y="{top + 24}" text-anchor="middle" font-weight="bold">'
           f"{title}</text>"]
    text = lambda px, py, what, anchor: out.append(
        f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{what}</text>')
    line = lambda a, b, style: out.append(
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" {style}/>')
    grid = 'stroke="#ccc"'
    for power in range(x0, x1 + 1):
        line((x(10 ** power), y(10 ** y0)), (x(10 ** power), y(10 ** y1)), grid)
        text(x(10 ** power), y(10 ** y0) + 16, f"{10 ** power:,}", "middle")
    for power in range(y0, y1 + 1):
        line((x(10 ** x0), y(10 ** power)), (x(10 ** x1), y(10 ** power)), grid)
        text(x(10 ** x0) - 6, y(10 ** power) + 4, f"{10 ** power:g} s", "end")
    # in proportion to the amount, through the last point's processor seconds
    last, cost = points[-1][0], max(points[-1][2], 0.01)
    from_here = max(amounts[0], last * 10 ** y0 / cost)
    line((x(from_here), y(cost * from_here / last)), (x(last), y(cost)),
         'stroke="#888" stroke-dasharray="5 4"')
    for number, color in enumerate(COLORS.values(), 1):
        places = [(x(p[0]), y(max(p[number], 0.01))) for p in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in places]
    return out


def svg(panels):
    """A picture of panels, two in a row; each is a title and its points."""
    rows = (len(panels) + 1) // 2
    height = rows * HEIGHT + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" '
           f'font-family="sans-serif" font-size="11">',
           f'<rect width="{2 * WIDTH}" height="{height}" fill="white"/>']
    for number, (title, points) in enumerate(panels):
        out += panel(title, points, number % 2 * WIDTH, number // 2 * HEIGHT)
    for number, (name, color) in enumerate(COLORS.items()):
        px = 60 + number * 120
        out.append(f'<circle cx="{px}" cy="{height - 14}" r="4" fill="{color}"/>')
        out.append(f'<text x="{px + 10}" y="{height - 10}">{name}</text>')
    px = 420
    out.append(f'<line x1="{px}" y1="{height - 14}" x2="{px + 30}" y2="{height - 14}" '
               f'stroke="#888" stroke-dasharray="5 4"/>')
    out.append(f'<text x="{px + 36}" y="{height - 10}">in proportion</text>')
    wrapped = [part for element in [*out, "</svg>"]
               for part in textwrap.wrap(element, 100, break_long_words=False,
                                         break_on_hyphens=False)]
    return "\n".join(wrapped) + "\n"
