from .text import check_words as check_words
from .text import encode_text as encode_text
from .text import save_text_encoder as save_text_encoder
from .text import save_tokenizer as save_tokenizer
from .text import text_config as text_config
from .text import word_tokenizer as word_tokenizer
from .text import words_of as words_of
