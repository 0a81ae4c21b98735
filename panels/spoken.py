"""What a screen reader speaks: of all status lines what is new, in one region, once a second.

The lines themselves are replaced whole, several times a second while a picture is drawn; as live
regions they would be spoken over one another, or not at all.
"""

EVERY = 1000  # milliseconds
REGION = '<div id="osteon-spoken" class="osteon-unseen" role="status"></div>'
# In a shadow root: whoever searches the page finds a line once, where it is shown
SCRIPT = f"""<script>
(() => {{
  let before = [], host, words;
  setInterval(() => {{
    if (!host?.isConnected) {{
      host = document.getElementById("osteon-spoken");
      words = host?.attachShadow({{ mode: "closed" }});
    }}
    const lines = [...document.querySelectorAll(".osteon-status:not([role]) p")]
      .filter((line) => line.checkVisibility()).map((line) => line.textContent);
    const fresh = lines.filter((line) => !before.includes(line));
    if (words && fresh.length) words.textContent = fresh.join(" ");
    before = lines;
  }}, {EVERY});
}})();
</script>"""
