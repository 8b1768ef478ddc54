"""The methods: what makes a map of activations and derivatives, as Captum layer attributions."""
