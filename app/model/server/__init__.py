"""A model behind HTTP, with the embeddings API of OpenAI."""
