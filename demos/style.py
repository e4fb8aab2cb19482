"""The look that all demo pages share: paper, ink and one accent, as on the contact sheets of `visionzoo retrieve`."""

from __future__ import annotations

from gradio import themes

_SANS = ("system-ui", "Segoe UI", "Helvetica Neue", "sans-serif")


def theme() -> themes.Base:
    """Warm greys, a brick red accent, square corners, the system's own fonts (nothing is loaded from elsewhere)."""
    shades = "#fbf1ee #f6ddd6 #ebb8ab #dd8c79 #cb5f47 #b3391f #9c2f18 #7f2613 #631e10 #4a170d #300e07"
    brick = themes.Color(*shades.split(), name="brick")
    fonts = {"font": _SANS, "font_mono": ("ui-monospace", "monospace")}
    return themes.Base(
        primary_hue=brick, secondary_hue=brick, neutral_hue=themes.colors.stone, radius_size="sm", **fonts
    ).set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#191917",
        body_text_color="#1d1d1b",
        body_text_color_subdued="#6b6b66",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0px",
        block_label_background_fill="*body_background_fill",
        block_label_background_fill_dark="*body_background_fill",
        input_background_fill="white",
        input_border_width="1px",
        input_border_color="*neutral_200",
        block_title_text_weight="600",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_text_color="white",
        button_large_text_weight="600",
        slider_color="*primary_500",
    )


CSS = """
.gradio-container { max-width: 1400px !important; margin: 0 auto !important; padding: 0 !important; }
.gradio-container main { padding: 1.75rem clamp(1rem, 3vw, 2.5rem) 1rem !important; }
.gradio-container .form { background: none; border: 0; box-shadow: none; gap: 1.1rem; overflow: visible; }
.gradio-container .form > .block { background: none; }
.gradio-container footer .divider { display: none; }
.gradio-container footer { gap: 1.5rem; }

.vz-head h1 { font-size: 1.55rem; line-height: 1.2; font-weight: 650; letter-spacing: -.012em; margin: 0; }
.vz-head p { margin: .35rem 0 .6rem; color: var(--body-text-color-subdued); }
.vz-columns { gap: 2.5rem !important; align-items: flex-start; }
.vz-query { gap: 1.1rem !important; }
.vz-note { border-top: 1px solid var(--border-color-primary); margin-top: 2rem; padding-top: 1rem; columns: 21rem 3;
           column-gap: 2.5rem; font-size: var(--text-sm); line-height: 1.5; color: var(--body-text-color-subdued); }
.vz-note p { margin: 0 0 .7rem; break-inside: avoid; }
.vz-note strong { color: var(--body-text-color); font-weight: 600; }
.vz-note a { display: inline; padding: 0; margin: 0; }
.vz-hint { margin: 0; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-problem { border-left: 3px solid var(--color-accent); padding: .15rem 0 .15rem .8rem; margin-bottom: 1rem;
              overflow-wrap: anywhere; }

#vz-picture { border: 1px solid var(--border-color-primary); }
#vz-region input, #vz-region textarea { font-variant-numeric: tabular-nums; }
#vz-samples .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(46px, 1fr)); gap: 5px; }
#vz-samples .gallery-item { position: relative; aspect-ratio: 1; width: auto; border: 0; border-radius: 2px; }
#vz-samples .gallery-item .container { position: absolute; inset: 0; width: 100%; height: 100%; max-height: none;
                                       border: 0; }
#vz-samples .gallery-item img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
#vz-samples .gallery-item:is(:hover, :focus-visible) { outline: 2px solid var(--color-accent); outline-offset: 1px; }

.vz-empty { border: 1px dashed var(--border-color-primary); padding: 4.5rem 1.5rem; text-align: center;
            color: var(--body-text-color-subdued); }
#vz-results { scroll-margin-top: 1rem; }
.vz-summary { display: flex; gap: 1.1rem; align-items: center; padding-bottom: 1.2rem; }
.vz-summary img { max-height: 76px; max-width: 130px; margin: 4px; outline: 2px solid var(--color-accent);
                  outline-offset: 2px; }
.vz-summary strong { display: block; font-size: 1.05rem; font-weight: 600; }
.vz-summary span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-stages { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
             gap: 1.9rem 2.25rem; }
.vz-stage { min-width: 0; border-top: 2px solid var(--body-text-color); padding-top: .6rem; }
.vz-stage h2 { font-size: 1rem; font-weight: 650; margin: 0; }
.vz-stage h2 + p { margin: .1rem 0 .9rem; color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.vz-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(98px, 1fr)); gap: 1rem .7rem;
           margin: 0; padding: 0; list-style: none; }
.vz-grid li { margin: 0; min-width: 0; }
.vz-frame { display: flex; align-items: center; justify-content: center; aspect-ratio: 4 / 3; overflow: hidden;
            background: color-mix(in srgb, var(--body-text-color) 7%, transparent); }
.vz-frame img { max-width: 100%; max-height: 100%; display: block; }
.vz-frame em { font-size: var(--text-xs); color: var(--body-text-color-subdued); text-align: center; padding: .5rem;
               font-style: normal; }
.vz-line { display: flex; align-items: baseline; gap: .45rem; padding-top: .35rem; font-variant-numeric: tabular-nums; }
.vz-rank { font-weight: 650; }
.vz-score { color: var(--body-text-color-subdued); }
.vz-moved { margin-left: auto; font-size: var(--text-xs); font-weight: 600; white-space: nowrap;
            color: var(--body-text-color-subdued); }
.vz-moved.up { color: var(--color-accent); }
.vz-name { font-size: var(--text-xs); color: var(--body-text-color-subdued); overflow: hidden; text-overflow: ellipsis;
           white-space: nowrap; }
"""

__all__ = ["CSS", "theme"]
