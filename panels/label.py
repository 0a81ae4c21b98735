"""The visible mark of a made-up picture: a strip of words below it, its pixels untouched."""

from PIL import Image, ImageDraw, ImageFont

WORDS = ("SYNTHETIC · not for diagnosis", "SYNTHETIC", "AI")
"""The first that fits."""
WHEN = ("on X-rays", "always", "never")


def strip_height(side: int) -> int:
    """Pixels of the strip below a picture `side` pixels wide."""
    return max(10, side // 16)


def labelled(image: Image.Image, height: int) -> Image.Image:
    """`image` with a strip of `height` pixels below it; `unlabelled` takes it off again."""
    sheet = Image.new(image.mode, (image.width, image.height + height), 0)
    sheet.info |= image.info  # where it says that a model made it
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for words in WORDS:
        font = ImageFont.load_default(height * 0.8)
        left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
        if right - left <= image.width - 4:
            break
    x = (image.width - (right - left)) / 2 - left
    y = image.height + (height - (bottom - top)) / 2 - top
    pen.text((x, y), words, fill=255 if image.mode == "L" else (255, 255, 255), font=font)
    return sheet


def unlabelled(image: Image.Image, height: int) -> Image.Image:
    """The picture as the model drew it, without a strip of `height` pixels."""
    return image.crop((0, 0, image.width, image.height - height))
