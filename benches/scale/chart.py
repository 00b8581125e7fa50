"""The sweeps as one SVG: CPU a record against each thing that varies, both axes logarithmic."""
import math

WIDTH, HEIGHT, LEFT, TOP, SIZE = 260, 230, 46, 28, 170


def draw(curves: dict[str, list[tuple[int, float, float]]]) -> str:
    most = max(cost for rows in curves.values() for _, cost, _ in rows)
    least = min(cost for rows in curves.values() for _, cost, _ in rows)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most) + 1e-9)
    parts = [panel(n * WIDTH, name, rows, low, high) for n, (name, rows) in enumerate(curves.items())]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(curves)} {HEIGHT}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')


def panel(x0: int, name: str, rows: list[tuple[int, float, float]], low: int, high: int) -> str:
    first, last = rows[0][0], rows[-1][0]
    x = lambda value: x0 + LEFT + SIZE * math.log(value / first) / math.log(last / first)
    y = lambda cost: TOP + SIZE * (high - math.log10(cost)) / (high - low)
    points = " ".join(f"{x(value):.1f},{y(cost):.1f}" for value, cost, _ in rows)
    dots = "".join(f'<circle cx="{x(value):.1f}" cy="{y(cost):.1f}" r="2.5" fill="#1f5a99"/>' for value, cost, _ in rows)
    ticks = "".join(f'<text x="{x0 + LEFT - 6}" y="{y(10.0 ** k) + 4:.1f}" text-anchor="end">{10.0 ** k:g}</text>'
                    f'<line x1="{x0 + LEFT}" x2="{x0 + LEFT + SIZE}" y1="{y(10.0 ** k):.1f}" y2="{y(10.0 ** k):.1f}" stroke="#ddd"/>' for k in range(low, high + 1))
    ends = "".join(f'<text x="{x(value):.1f}" y="{TOP + SIZE + 16}" text-anchor="middle">{value:,}</text>' for value in (first, last))
    title = f'<text x="{x0 + LEFT}" y="{TOP - 12}">{name}: CPU us a record</text>'
    return f'{ticks}{title}{ends}<polyline points="{points}" fill="none" stroke="#1f5a99" stroke-width="1.5"/>{dots}'
