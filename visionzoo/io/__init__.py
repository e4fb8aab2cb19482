"""Reading and writing: files that land whole, images, and (with the systems that need them) video and huge images."""
