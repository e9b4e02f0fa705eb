"""What a form of a model is worth beside the merged model: how far its next tokens lie from it, what it solves, how fast it is.

`divergence` the arithmetic on two distributions; `forms` whoever can be scored (Transformers, llama.cpp, Ollama); `measure` the exam,
the merged model's answers and one form's score; `floors` what is not good enough; `table` the page.

The merged model answers a fixed subset of the problems, greedily, once. Its answers are both its pass@1 and the text on which the
others are teacher-forced. Not here: the whole benchmark (`pipelines.evaluate`), which form is meant (`references`).
"""
